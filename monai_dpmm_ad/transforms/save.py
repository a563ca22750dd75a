# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write maps and masks on the scan's own grid."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from monai_dpmm_ad.data.nifti import open_volume
from monai_dpmm_ad.data.paths import MAKER, NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix
from monai_dpmm_ad.data.readers import reading_reason
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.files import PARTIAL, replace_file

__all__ = ["SaveScand", "output_path", "own_format_path", "write_map"]

UINT16_MAX = 65535
_SINGLE_FILES = {".nhdr": ".nrrd", ".mhd": ".mha"}  # of formats in two files the one in one
_OWN_FORMATS = (".mgz", ".mgh", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff")


class SaveScand(SaveImaged):
    """Save maps as ``NAME_postfix.nii.gz``, or ``.png`` where the source is a picture.

    MONAI's ``SaveImaged`` would drop trailing slices of size one, write another header than the source's, and hide why
    a disk refused a file; a bundle's users may still look for that class, so this is one, with its arguments' names.
    Where a map went is in its metadata as ``saved_to``.

    Args:
        keys: maps ``(1, *spatial)`` on the source's grid; their metadata name the source, see :func:`write_map`.
        output_dir: folder of the outputs.
        output_postfix: what the file holds, for example ``anomaly``.
        output_dtype: ``float32``, ``float64`` or ``uint8``.
        output_ext: of the files of volumes, a suffix that :func:`write_map` knows.
        separate_folder: whether each scan's files go into a folder of its own.
        own_format: write the map in the source's own format as well, where that is another that can hold it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel as nib
        >>> from monai_dpmm_ad import LoadScand
        >>> folder = Path(tempfile.mkdtemp())
        >>> values = np.random.default_rng(0).random((6, 5, 4), dtype=np.float32)
        >>> nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "a.nii")
        >>> scan = LoadScand()({"image": str(folder / "a.nii"), "name": "a"})
        >>> _ = SaveScand("image", folder, "anomaly")(scan)
        >>> nib.load(folder / "a_anomaly.nii.gz").shape
        (6, 5, 4)
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        output_postfix: str,
        output_dtype: str = "float32",
        output_ext: str = ".nii.gz",
        separate_folder: bool = False,
        own_format: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=Path(output_dir), output_postfix=output_postfix, allow_missing_keys=True)
        self.output_dir, self.output_postfix = Path(output_dir), output_postfix
        self.output_dtype, self.output_ext = np.dtype(output_dtype), output_ext
        self.separate_folder, self.own_format = separate_folder, own_format

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the maps; of ``data`` only their metadata change."""
        for key in self.key_iterator(dict(data)):
            meta = data[key].meta
            values = np.asarray(data[key].cpu())[0].astype(self.output_dtype, copy=False)
            paths = self._paths(meta)
            for path in paths:
                write_map(path, values, meta)
            data[key].meta = {**meta, "saved_to": [str(path) for path in paths]}  # maps may share a dictionary
        return dict(data)

    def _paths(self, meta: Mapping[str, Any]) -> list[Path]:
        place = (self.output_dir, meta["name"], self.output_postfix, meta["filename_or_obj"])
        path = output_path(*place, ext=self.output_ext, separate=self.separate_folder)
        own = own_format_path(*place, separate=self.separate_folder) if self.own_format else None
        return [path] if own in (None, path) else [path, own]


def output_path(
    folder: str | os.PathLike[str],
    name: str,
    postfix: str,
    source: str,
    suffix: str | None = None,
    ext: str = ".nii.gz",
    separate: bool = False,
) -> Path:
    """Path of an output: ``folder/NAME_postfix``, or ``folder/NAME/NAME_postfix``, with a suffix.

    Args:
        folder: of all outputs.
        name: of the scan.
        postfix: what the file holds.
        source: the scan's file: the output of a picture is a ``.png``.
        suffix: used whatever the source is.
        ext: suffix of the outputs of volumes.
        separate: whether each scan has a folder of its own.

    Raises:
        ValueError: a name that would leave the folder.
    """
    suited = suffix or (".png" if has_suffix(source, PICTURE_SUFFIXES) else ext)
    file = f"{name}_{postfix}{suited}"
    for part, value in (("name", name), ("postfix", file)):
        if Path(value).name != value or value in (".", ".."):
            raise ValueError(f"`{part}` must be a plain file name, got '{value}'.")
    return Path(folder) / name / file if separate else Path(folder) / file


def own_format_path(
    folder: str | os.PathLike[str], name: str, postfix: str, source: str, separate: bool = False
) -> Path | None:
    """Path of an output in the source's own format; None where that has no other or cannot hold a map."""
    own = next((suffix for suffix in _OWN_FORMATS if has_suffix(source, (suffix,))), None)
    suffix = None if own is None else _SINGLE_FILES.get(own, own)
    return None if suffix is None else output_path(folder, name, postfix, source, suffix, separate=separate)


def write_map(path: str | os.PathLike[str], values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    """Write a map as NIfTI with the source's own header, or as what its suffix says, under a temporary name first.

    A NIfTI keeps the source's affine, units and codes to the bit. A float map becomes a 16-bit PNG in which mid-grey is
    the threshold and white twice that or more; a mask becomes 0 and 255.

    Args:
        path: ends in ``.nii.gz`` or ``.png``, or in a suffix of another format that can be read.
        values: ``(X, Y, Z)``, or ``(columns, rows)`` for a picture, on the source's grid; its type is that of the file.
        meta: ``filename_or_obj``, the source; ``original_affine``; for a float PNG also ``threshold``.

    Raises:
        ScanError: the source is not there any more.
        OSError: the file cannot be written, or must not be: see :func:`~monai_dpmm_ad.utils.files.replace_file`.
    """
    source = str(meta["filename_or_obj"])
    if has_suffix(path, (".hdr",)):
        _write_pair(Path(path), values, meta)
        return
    write = next((write for suffixes, write in _WRITERS.items() if has_suffix(path, suffixes)), None)
    if write is not None:
        replace_file(path, lambda temporary: write(temporary, values, meta), owner=source)
    else:
        image = _on_grid_of(source, values, meta)
        replace_file(path, lambda temporary: nib.save(image, temporary), owner=source)


def _write_tiff(path: Path, values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    """The map's own numbers; a mask as 0 and 255."""
    pixels = (values.T > 0).astype(np.uint8) * 255 if values.dtype == np.uint8 else values.T
    Image.fromarray(pixels).save(path, software=MAKER)


def _write_freesurfer(path: Path, values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    nib.save(nib.MGHImage(values, np.asarray(meta["original_affine"], dtype=np.float64)), path)


def _write_itk(path: Path, values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(meta["original_affine"], dtype=np.float64)
    rank = values.ndim
    spacing = np.linalg.norm(affine[:rank, :rank], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:rank, :rank] / spacing).ravel().tolist())
    image.SetOrigin(affine[:rank, 3].tolist())
    image.SetMetaData("ITK_InputFilterName", MAKER)
    SimpleITK.WriteImage(image, str(path), True)


def _write_pair(path: Path, values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    """Write a NIfTI pair, the voxels before the header that stands for both."""
    image = nib.Nifti1Pair(values, np.asarray(meta["original_affine"], dtype=np.float64))
    image.header["descrip"] = MAKER.encode()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PARTIAL) as folder:
        nib.save(image, Path(folder) / path.name)
        for name in (path.with_suffix(".img").name, path.name):
            write = partial(shutil.copyfile, Path(folder) / name)
            replace_file(path.with_name(name), write, str(meta["filename_or_obj"]))


def _write_picture(path: Path, values: NDArray[Any], meta: Mapping[str, Any]) -> None:
    pixels, info = values.T, PngInfo()
    info.add_text("Software", MAKER)
    if pixels.dtype == np.uint8:
        Image.fromarray((pixels > 0).astype(np.uint8) * 255).save(path, pnginfo=info)
        return
    scale = UINT16_MAX / max(2 * float(meta["threshold"]), 1e-12)
    Image.fromarray(np.clip(pixels * scale, 0, UINT16_MAX).astype(np.uint16)).save(path, pnginfo=info)


def _on_grid_of(source: str, values: NDArray[Any], meta: Mapping[str, Any]) -> nib.Nifti1Image:
    if not has_suffix(source, NIFTI_SUFFIXES):
        plain = nib.Nifti1Image(values, np.asarray(meta["original_affine"], dtype=np.float64))
        plain.header["descrip"] = MAKER.encode()
        return plain
    try:
        image = cast(nib.Nifti1Image, open_volume(source))
    except Exception as error:  # it was read a moment ago
        raise ScanError(source, f"has changed while it was processed: {reading_reason(error)}") from error
    header = nib.Nifti1Header.from_header(image.header, check=False)
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header.extensions.clear()  # they may hold the patient's data
    for field, content in {
        "cal_min": 0,
        "cal_max": 0,
        "descrip": MAKER.encode(),
        "aux_file": b"",
        "db_name": b"",
    }.items():
        header[field] = content
    header["intent_code"] = 0  # a map is not what its source may be called
    shape = image.shape if np.prod(image.shape) == values.size else values.shape  # of several volumes a map has one
    return nib.Nifti1Image(values.reshape(shape), None, header)


_WRITERS: dict[tuple[str, ...], Callable[[Path, NDArray[Any], Mapping[str, Any]], None]] = {
    (".tif", ".tiff"): _write_tiff,
    PICTURE_SUFFIXES: _write_picture,
    (".mgz", ".mgh"): _write_freesurfer,
    (".nrrd", ".mha"): _write_itk,
}
