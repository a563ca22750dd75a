# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Open the volumes that nibabel reads, mend headers that it refuses, and say what they leave open."""

from __future__ import annotations

import gzip
from io import BytesIO
from typing import Any

import nibabel as nib
import numpy as np

from monai_dpmm_ad.data.limits import DEFAULT_MAX_BYTES, check_nifti_header, open_in_memory
from monai_dpmm_ad.data.paths import NIFTI_SUFFIXES, has_suffix
from monai_dpmm_ad.errors import ScanError

__all__ = ["check_whole", "describe_geometry", "open_volume", "world_affine"]

_GZIP = b"\x1f\x8b"
_CHUNK = 4 * 2**20
_TYPES = {348: nib.Nifti1Header.template_dtype, 540: nib.Nifti2Header.template_dtype}
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # by NIfTI's code of the spatial unit
_UNITS = {1: "metres", 3: "micrometres"}


def open_volume(path: str, max_bytes: int = DEFAULT_MAX_BYTES) -> Any:
    """Open a NIfTI file, a pair or a FreeSurfer volume without reading its voxels.

    A NIfTI is opened as what it is, compressed or not, once or twice, whatever its name says. A rotation in its header
    that is none is left out, an intercept that is no number is 0, a fourth dimension of no extent is 1, and voxels that
    begin inside of the header begin behind it.

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
    layers = _count_layers(path)
    header = _raw_header(path, layers)
    mended = None if header is None else _mend(header)
    if layers == int(path.lower().endswith(".gz")) and mended is None:
        check_nifti_header(path)
        return nib.load(path)
    content = _unpack(path, layers, max_bytes)
    check_nifti_header(path, content)
    if mended is not None:
        content = mended.tobytes() + content[mended.nbytes :]
    kind = nib.Nifti2Image if header is not None and header.dtype.itemsize == 540 else nib.Nifti1Image
    return kind.from_stream(BytesIO(content))


def _count_layers(path: str) -> int:
    """How many times a file is compressed, at most two."""
    with open(path, "rb") as file:
        if file.read(2) != _GZIP:
            return 0
        file.seek(0)
        with gzip.GzipFile(fileobj=file, mode="rb") as inner:
            return 2 if inner.read(2) == _GZIP else 1


def _raw_header(path: str, layers: int) -> np.ndarray | None:
    """The header as it is written, before nibabel corrects it; None where there is none."""
    with open(path, "rb") as file:
        stream: Any = file
        for _ in range(layers):
            stream = gzip.GzipFile(fileobj=stream, mode="rb")
        start = stream.read(540)
    for size, dtype in _TYPES.items():
        for ordered in (dtype.newbyteorder("<"), dtype.newbyteorder(">")):
            if len(start) >= size:
                header = np.frombuffer(start[:size], dtype=ordered).copy()
                if header["sizeof_hdr"][0] == size:
                    return header
    return None


def _mend(header: np.ndarray) -> np.ndarray | None:
    """Correct what nibabel refuses or misreads; None where there is nothing to correct."""
    fields, mended = header[0], header.copy()
    quaternion = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], dtype=float)
    if fields["qform_code"] > 0 and not (quaternion**2).sum() <= 1 + 1e-5:
        mended["qform_code"] = 0
    if np.isfinite(fields["scl_slope"]) and fields["scl_slope"] != 0 and not np.isfinite(fields["scl_inter"]):
        mended["scl_inter"] = 0
    count = int(fields["dim"][0])
    if 3 < count <= 7:
        mended["dim"][0, 4 : count + 1] = np.maximum(mended["dim"][0, 4 : count + 1], 1)
    behind = header.nbytes + 4  # where voxels begin in a file without extensions
    if 0 <= fields["vox_offset"] < behind:  # some programs write 0, as in a pair
        mended["vox_offset"] = behind
    return None if mended.tobytes() == header.tobytes() else mended


def _unpack(path: str, layers: int, max_bytes: int) -> bytes:
    content = open_in_memory(path, max_bytes).getvalue()
    for _ in range(layers):
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ScanError(path, f"unpacks to more than {max_bytes / 2**30:.1f} GiB, the limit")
    return content


def check_whole(path: str, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
    """Read a compressed file to its end, where its checksum is: a library stops at the last voxel.

    Raises:
        EOFError: it was cut off.
        OSError: the checksum is another.
    """
    if not _count_layers(path):
        return
    with gzip.open(path) as file:
        try:
            for _ in range(0, max_bytes, _CHUNK):
                if not file.read(_CHUNK):
                    return
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" not in str(error):  # what another program wrote behind its end does no harm
                raise


def world_affine(image: Any) -> np.ndarray:
    """Return an image's affine in millimetres, whatever unit its header gives."""
    affine = np.asarray(image.affine, dtype=np.float64).copy()
    affine[:3] *= _MILLIMETRES.get(_unit(image.header), 1.0)
    return affine


def describe_geometry(path: str, image: Any) -> list[str]:
    """Say what a header leaves open or gives in another unit, in sentences without a full stop.

    Args:
        path: of the file; nibabel has corrected the header that it hands out.
        image: what `open_volume` gave.
    """
    header, notes = image.header, []
    if _unit(header) in _UNITS:
        notes.append(f"the header gives voxel sizes in {_UNITS[_unit(header)]}; they were converted to millimetres")
    if "sform_code" not in header:
        if isinstance(image, nib.AnalyzeImage):
            notes.append("an Analyze file does not say which side is left; the usual order was assumed")
        return notes
    if int(header["sform_code"]):
        return notes
    raw = _raw_header(path, _count_layers(path)) if has_suffix(path, NIFTI_SUFFIXES) else None
    sizes = np.asarray((header if raw is None else raw[0])["pixdim"], dtype=float)[1 : 1 + min(3, len(image.shape))]
    if not (np.isfinite(sizes).all() and (sizes != 0).all()):
        notes.append(
            "the voxel sizes are undefined (pixdim 0); 1 mm was assumed, so that volumes are not to be trusted"
        )
    if not int(header["qform_code"]):
        notes.append("the orientation is undefined (no sform or qform code); that of the array was assumed")
    return notes


def _unit(header: Any) -> int:
    return int(header["xyzt_units"]) & 7 if "xyzt_units" in header else 2
