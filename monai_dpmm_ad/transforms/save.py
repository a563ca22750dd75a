# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write maps and masks on the scan's own grid."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged
from numpy.typing import NDArray
from PIL import Image

from monai_dpmm_ad.data.paths import NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix
from monai_dpmm_ad.data.readers import reading_reason
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.files import replace_file

__all__ = ["SaveScand", "output_path", "write_map"]

UINT16_MAX = 65535


class SaveScand(SaveImaged):
    """Save maps as ``NAME_postfix.nii.gz``, or ``.png`` where the source is a picture.

    MONAI's ``SaveImaged`` would drop trailing slices of size one, write another header than the source's, and hide why
    a disk refused a file; a bundle's users may still look for that class, so this is one.

    Args:
        keys: maps ``(1, *spatial)`` on the source's grid; their metadata name the source, see :func:`write_map`.
        output_dir: folder of the outputs.
        postfix: what the file holds, for example ``anomaly``.
        dtype: ``float32`` or ``uint8``.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: str | os.PathLike[str], postfix: str, dtype: str = "float32"
    ) -> None:
        super().__init__(keys, output_dir=Path(output_dir), output_postfix=postfix, allow_missing_keys=True)
        self.output_dir, self.postfix, self.dtype = Path(output_dir), postfix, np.dtype(dtype)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the maps; ``data`` is handed on unchanged."""
        for key in self.key_iterator(dict(data)):
            meta = data[key].meta
            path = output_path(self.output_dir, meta["name"], self.postfix, meta["filename_or_obj"])
            write_map(path, np.asarray(data[key].cpu())[0].astype(self.dtype, copy=False), meta)
        return dict(data)


def output_path(
    folder: str | os.PathLike[str], name: str, postfix: str, source: str, suffix: str | None = None
) -> Path:
    """Path of an output: ``folder/NAME_postfix`` with ``suffix``, or the one that suits the source.

    Raises:
        ValueError: a name that would leave the folder.
    """
    if Path(name).name != name or name in (".", ".."):
        raise ValueError(f"`name` must be a plain file name, got '{name}'.")
    suited = ".png" if has_suffix(source, PICTURE_SUFFIXES) else ".nii.gz"
    return Path(folder) / f"{name}_{postfix}{suffix or suited}"


def write_map(path: str | os.PathLike[str], values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    """Write a map as NIfTI with the source's own header, or as a PNG, under a temporary name first.

    A NIfTI keeps the source's affine, units and codes to the bit. A float map becomes a 16-bit PNG in which mid-grey is
    the threshold and white twice that or more; a mask becomes 0 and 255.

    Args:
        path: ends in ``.nii.gz`` or ``.png``.
        values: ``(X, Y, Z)``, or ``(columns, rows)`` for a picture, on the source's grid; its type is that of the file.
        meta: ``filename_or_obj``, the source; ``original_affine``; for a float PNG also ``threshold``.

    Raises:
        ScanError: the source is not there any more.
        OSError: the file cannot be written, or must not be: see :func:`~monai_dpmm_ad.utils.files.replace_file`.
    """
    source = str(meta["filename_or_obj"])
    if has_suffix(str(path), PICTURE_SUFFIXES):
        replace_file(path, lambda temporary: _write_picture(temporary, values, meta), owner=source)
    else:
        image = _on_grid_of(source, values, meta)
        replace_file(path, lambda temporary: nib.save(image, temporary), owner=source)


def _write_picture(path: Path, values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    pixels = values.T
    if pixels.dtype == np.uint8:
        Image.fromarray((pixels > 0).astype(np.uint8) * 255).save(path)
        return
    scale = UINT16_MAX / max(2 * float(meta["threshold"]), 1e-12)
    Image.fromarray(np.clip(pixels * scale, 0, UINT16_MAX).astype(np.uint16)).save(path)


def _on_grid_of(source: str, values: NDArray[Any], meta: Mapping[str, Any]) -> nib.Nifti1Image:
    if not has_suffix(source, NIFTI_SUFFIXES):
        return nib.Nifti1Image(values, np.asarray(meta["original_affine"], dtype=np.float64))
    try:
        image = cast(nib.Nifti1Image, nib.load(source))
    except Exception as error:  # it was read a moment ago
        raise ScanError(source, f"has changed while it was processed: {reading_reason(error)}") from error
    header = nib.Nifti1Header.from_header(image.header, check=False)
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header.extensions.clear()  # they may hold the patient's data
    for field, content in {"cal_min": 0, "cal_max": 0, "descrip": b"", "aux_file": b"", "db_name": b""}.items():
        header[field] = content
    return nib.Nifti1Image(values.reshape(image.shape), None, header)
