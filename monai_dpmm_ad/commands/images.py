# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Scans that are in memory, as files: one way into the package, with the same checks and the same bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import orientation_ras_lps
from monai.utils import MetaKeys, SpaceKeys
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from monai_dpmm_ad.commands.result import AnomalyResult
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.sequences import arrange_sequences
from monai_dpmm_ad.errors import ScanError

__all__ = ["find_scan", "is_path", "naming_memory", "place_image", "rename_source", "write_image", "write_images"]

#: Stem of the file of an image in memory; each of several sequences has its name.
WRITTEN = "image"
_IN_MEMORY = "the image in memory"


def is_path(image: Any) -> bool:
    """Whether an image is named by its path."""
    return isinstance(image, (str, os.PathLike))


def place_image(image: Any, path: Path, affine: ArrayLike | None = None) -> str:
    """The absolute path of an image; one that is in memory is written to ``path``, see :func:`write_image`.

    Raises:
        ValueError: a path without a letter, which would be the folder that the process is in; and as there.
    """
    if not is_path(image):
        return str(write_image(image, path, affine))
    if not os.fspath(image):
        raise ValueError("`image` must name a file or a folder, got ''. Give its path.")
    return os.path.abspath(image)


def find_scan(path: str, spatial_dims: int | None, sequences: Sequence[str] | None) -> dict[str, Any]:
    """The one scan that a path leads to, as a datalist has it; a list is none."""
    if path.lower().endswith(".json"):  # a server's client may upload one: it would make it open any file that it names
        raise ScanError(path, "is a list of scans, not a scan")
    items = resolve_datalist(path, spatial_dims=spatial_dims, suffix=sequences)
    if len(items) != 1:
        raise ScanError(path, f"holds {len(items)} scans; name one of them")
    return arrange_sequences(items[0], sequences)


@contextmanager
def naming_memory(folder: str) -> Iterator[Callable[[str], str]]:
    """Call an image by that it is in memory, where an error names the file that it was written to.

    Args:
        folder: of such files, which nobody knows.

    Yields:
        What to call a file.
    """

    def name(path: str) -> str:
        if os.path.dirname(path) != folder:
            return path
        return _IN_MEMORY if Path(path).stem == WRITTEN else f"{_IN_MEMORY} of {Path(path).stem}"

    try:
        yield name
    except ScanError as error:
        raise ScanError(name(error.path), error.reason) from None


def rename_source(result: AnomalyResult, call: Callable[[str], str]) -> AnomalyResult:
    """Call the file that a result is of by another name, see :func:`naming_memory`."""
    for image in result.scan.values():
        if isinstance(image, MetaTensor) and "filename_or_obj" in image.meta:
            image.meta["filename_or_obj"] = call(str(image.meta["filename_or_obj"]))
    return replace(result, row=replace(result.row, image=call(result.row.image)))


def write_image(image: Any, path: Path, affine: ArrayLike | None = None) -> Path:
    """Write an image as an uncompressed NIfTI in float32, as readers would give its voxels.

    Args:
        image: a nibabel image, a ``MetaTensor``, or an array or tensor; (X, Y, Z) or (X, Y), with or without a channel
            of one before it.
        path: ends in ``.nii``.
        affine: (4, 4), voxels to mm in scanner space (RAS); None takes the image's own, of a ``MetaTensor`` in the
            space that its ``meta`` names.

    Returns:
        The path.

    Raises:
        TypeError: what is no image.
        ValueError: an array without an affine, with one that gives its voxels no place, or of another shape.
    """
    header = None
    if isinstance(image, SpatialImage):
        values = np.asarray(image.dataobj)
        if values.ndim > 3 and set(values.shape[3:]) == {1}:  # as a file may have them
            values = values.reshape(values.shape[:3])
        affine = image.affine if affine is None else affine
        header = image.header if isinstance(image, nib.Nifti1Image) else None
    elif isinstance(image, torch.Tensor):
        affine = _world_affine(image) if affine is None and isinstance(image, MetaTensor) else affine
        values = _read_tensor(image)
    else:
        values = np.asarray(image)
    if values.dtype.kind not in "fiub":
        kind = type(image).__name__ + (f" of {values.dtype}" if hasattr(image, "dtype") else "")
        raise TypeError(f"`image` must be a path, a nibabel image, a MetaTensor or an array of numbers, got {kind}.")
    if not isinstance(image, SpatialImage) or values.ndim > 3:  # else the first axis is one of space
        values = _without_channel(values)
    saved = nib.Nifti1Image(values.astype(np.float32), _check_affine(affine), header)
    saved.header.set_data_dtype(np.float32)
    nib.save(saved, path)
    return path


def write_images(images: Any, folder: Path, affine: ArrayLike | None) -> list[Any]:
    """Write what is in memory, and keep the paths of the rest."""
    if is_path(images):
        return [images]
    if not isinstance(images, Sequence):
        raise TypeError(f"`images` must be a path or a list of paths and images, got {type(images).__name__}.")
    folder.mkdir()
    return [
        image if is_path(image) else write_image(image, folder / f"scan_{number:05d}.nii", affine)
        for number, image in enumerate(images)
    ]


def _read_tensor(image: torch.Tensor) -> NDArray[Any]:
    """Values of a tensor that lies anywhere, of any type; numpy has no bfloat16 and no floats of 8 bits."""
    if image.layout != torch.strided or image.is_quantized or image.is_meta:
        kind = "no values" if image.is_meta else f"{image.dtype} and {image.layout}"
        raise TypeError(f"`image` must be a dense tensor with values, got one of {kind}. Make it dense.")
    plain = image.detach().as_subclass(torch.Tensor)
    is_known = plain.dtype in (torch.float16, torch.float64) or not plain.is_floating_point()
    return (plain if is_known else plain.float()).numpy(force=True)


def _without_channel(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim in (3, 4) and values.shape[0] == 1 and min(values.shape) > 0:
        values = values[0]
    if values.ndim not in (2, 3):
        raise ValueError(f"`image` must have shape (X, Y, Z) or (X, Y), got {values.shape}.")
    return values


def _world_affine(image: MetaTensor) -> NDArray[np.float64]:
    """An image's affine in RAS; ITK's readers may leave it in LPS, and say so."""
    affine = _read_tensor(image.affine).astype(np.float64)
    return orientation_ras_lps(affine) if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS else affine


def _check_affine(affine: Any) -> NDArray[np.float64]:
    if affine is None:
        raise ValueError("`affine` must be given with an array, got None. Pass the voxel-to-scanner matrix (4, 4).")
    given = _read_tensor(affine) if isinstance(affine, torch.Tensor) else np.asarray(affine)
    if given.dtype.kind not in "fiu":
        raise ValueError(
            f"`affine` must hold real numbers, got {given.dtype}. Pass the voxel-to-scanner matrix (4, 4)."
        )
    matrix = given.astype(np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"`affine` must have shape (4, 4), got {matrix.shape}.")
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise ValueError(f"`affine` must end with the row 0 0 0 1, got {matrix[3].tolist()}. Is it transposed?")
    if not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < 4:
        raise ValueError(f"`affine` must be finite and invertible, got {matrix.tolist()}. Give that of the scan.")
    return matrix
