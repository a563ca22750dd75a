# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Open the volumes that nibabel reads, and say what their headers leave open."""

from __future__ import annotations

import gzip
from io import BytesIO
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from monai_dpmm_ad.data.limits import DEFAULT_MAX_BYTES, check_nifti_header, open_in_memory
from monai_dpmm_ad.data.paths import NIFTI_SUFFIXES, has_suffix
from monai_dpmm_ad.errors import ScanError

__all__ = ["describe_geometry", "open_volume", "world_affine"]

_GZIP = b"\x1f\x8b"
_NIFTI_1, _NIFTI_2 = 348, 540
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # by NIfTI's code of the spatial unit
_UNITS = {1: "metres", 3: "micrometres"}


def open_volume(path: str, max_bytes: int = DEFAULT_MAX_BYTES) -> Any:
    """Open a NIfTI file, a pair or a FreeSurfer volume without reading its voxels.

    A NIfTI is opened as what it is, compressed or not, once or twice, whatever its name says; a rotation in its header
    that is none is left out.

    Args:
        path: the file; of a pair the header.
        max_bytes: the most that a compressed file may unpack to, where it has to be unpacked into memory.

    Returns:
        A nibabel image.

    Raises:
        ScanError: when the header rules the file out.
    """
    if not has_suffix(path, NIFTI_SUFFIXES):
        return nib.load(path)
    with open(path, "rb") as file:
        start = file.read(2)
    if (start == _GZIP) != path.lower().endswith(".gz") or _is_packed_twice(path, start):
        return _from_memory(path, _unpack(path, max_bytes))
    check_nifti_header(path)
    try:
        return nib.load(path)
    except (HeaderDataError, ValueError) as error:
        if "w2 should be positive" not in str(error):
            raise
        return _from_memory(path, _without_rotation(_unpack(path, max_bytes)))


def _is_packed_twice(path: str, start: bytes) -> bool:
    if start != _GZIP:
        return False
    with gzip.open(path, "rb") as file:
        return file.read(2) == _GZIP


def _unpack(path: str, max_bytes: int) -> bytes:
    content = open_in_memory(path, max_bytes).getvalue()
    for _ in range(2):
        if content[:2] == _GZIP:
            with gzip.GzipFile(fileobj=BytesIO(content)) as file:
                content = file.read(max_bytes + 1)
            if len(content) > max_bytes:
                raise ScanError(path, f"unpacks to more than {max_bytes / 2**30:.1f} GiB, the limit")
    return content


def _from_memory(path: str, content: bytes) -> Any:
    size = int.from_bytes(content[:4], "little")
    kind = nib.Nifti2Image if _NIFTI_2 in (size, int.from_bytes(content[:4], "big")) else nib.Nifti1Image
    check_nifti_header(path, content)
    return kind.from_stream(BytesIO(content))


def _without_rotation(content: bytes) -> bytes:
    """Take back the claim that a header's quaternion says where the voxels lie."""
    start = 252 if int.from_bytes(content[:4], "little") != _NIFTI_2 else 344
    length = 2 if start == 252 else 4
    return content[:start] + bytes(length) + content[start + length :]


def world_affine(image: Any) -> np.ndarray:
    """Return an image's affine in millimetres, whatever unit its header gives."""
    affine = np.asarray(image.affine, dtype=np.float64).copy()
    affine[:3] *= _MILLIMETRES.get(_unit(image.header), 1.0)
    return affine


def describe_geometry(image: Any) -> list[str]:
    """Say what a header leaves open or gives in another unit, in sentences without a full stop."""
    header, notes = image.header, []
    if _unit(header) in _UNITS:
        notes.append(f"the header gives voxel sizes in {_UNITS[_unit(header)]}; they were converted to millimetres")
    if "sform_code" not in header:
        if isinstance(image, nib.AnalyzeImage):
            notes.append("an Analyze file does not say which side is left; the usual order was assumed")
        return notes
    if not int(header["sform_code"]):
        sizes = np.asarray(header["pixdim"], dtype=float)[1 : 1 + min(3, len(image.shape))]
        if not (np.isfinite(sizes).all() and (sizes != 0).all()):
            notes.append("the voxel sizes are undefined (pixdim 0); 1 mm was assumed, so that volumes may be wrong")
        if not int(header["qform_code"]):
            notes.append("the orientation is undefined (no sform or qform code); that of the array was assumed")
    return notes


def _unit(header: Any) -> int:
    return int(header["xyzt_units"]) & 7 if "xyzt_units" in header else 2
