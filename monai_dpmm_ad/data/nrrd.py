# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read NRRD: one file with header and voxels, of which no more is unpacked than its header claims."""

from __future__ import annotations

import bz2
import gzip
import os
from typing import Any

import numpy as np
from monai.data import NrrdReader
from monai.data.image_reader import NrrdImage

from monai_dpmm_ad.errors import ScanError

__all__ = ["NrrdVolumeReader"]

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_SPACES = {
    "left-posterior-superior": "left-posterior-superior",
    "lps": "left-posterior-superior",
    "right-anterior-superior": "right-anterior-superior",
    "ras": "right-anterior-superior",
}
_UNPACK: dict[str, Any] = {"raw": None, "gzip": gzip.open, "gz": gzip.open, "bzip2": bz2.open, "bz2": bz2.open}


class NrrdVolumeReader(NrrdReader):
    """MONAI's reader with what it takes for granted checked first.

    A header may name another file for the voxels, which would be read from anywhere on the disk, and packed voxels may
    unpack to more than the header claims: neither is followed.

    Args:
        max_bytes: the most memory that the voxels may take as float32.
    """

    def __init__(self, max_bytes: int) -> None:
        import_nrrd()
        super().__init__()
        self.max_bytes = max_bytes

    def read(self, data: Any, **kwargs: Any) -> NrrdImage:
        """Read one file.

        Raises:
            ScanError: when the header rules the file out.
        """
        path = str(data if isinstance(data, (str, os.PathLike)) else data[0])
        with open(path, "rb") as file:
            header = import_nrrd().read_header(file)
            dtype, unpack = _check_header(path, header, self.max_bytes)
            sizes = [int(size) for size in header["sizes"]]
            length = int(np.prod(sizes)) * dtype.itemsize
            content = file.read(length) if unpack is None else unpack(file).read(length)
        if len(content) < length:
            raise EOFError
        values = np.frombuffer(content, dtype).reshape(sizes, order="F")
        return NrrdImage(values, _geometry(path, header, len(sizes)))


def import_nrrd() -> Any:
    """Return the ``nrrd`` module.

    Raises:
        ImportError: when it is not installed, with the command that installs it.
    """
    try:
        import nrrd
    except ImportError as error:
        raise ImportError('reading NRRD needs pynrrd; install it with: pip install "monai-dpmm-ad[nrrd]"') from error
    return nrrd


def _check_header(path: str, header: dict[str, Any], max_bytes: int) -> tuple[np.dtype[Any], Any]:
    if {"data file", "datafile"} & set(header):
        raise ScanError(path, "keeps its voxels in another file; write header and voxels into one .nrrd")
    sizes = [int(size) for size in header["sizes"]]
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise ScanError(path, f"is {len(sizes)}D with shape {tuple(sizes)}; a scan has two or three dimensions")
    if any(int(header.get(name, 0)) for name in ("byte skip", "byteskip", "line skip", "lineskip")):
        raise ScanError(path, "has voxels that do not follow its header; write it again without skips")
    claimed = int(np.prod(sizes, dtype=object)) * 4
    if claimed > max_bytes:
        raise ScanError(
            path, f"claims shape {tuple(sizes)}, {claimed / 2**30:.1f} GiB; the limit is {max_bytes / 2**30:.1f} GiB"
        )
    encoding = str(header.get("encoding", "")).lower()
    if encoding not in _UNPACK:
        raise ScanError(path, f"has voxels encoded as '{encoding}'; write it raw or with gzip")
    kind = str(header.get("type", "")).lower()
    found = [code for code, names in _TYPES.items() if kind in names]
    if not found:
        raise ScanError(path, f"has voxels of type '{kind}'; a scan needs one real number per voxel")
    order = ">" if str(header.get("endian", "little")).lower() == "big" else "<"
    return np.dtype(order + found[0]), _UNPACK[encoding]


def _geometry(path: str, header: dict[str, Any], dims: int) -> dict[str, Any]:
    """The part of the header that says where the voxels are; the rest may name the patient."""
    space = _SPACES.get(str(header.get("space", "lps")).lower())
    directions = np.asarray(header.get("space directions", np.diag(header.get("spacings", np.ones(dims)))), dtype=float)
    origin = np.asarray(header.get("space origin", np.zeros(directions.shape[-1])), dtype=float)
    if space is None or not np.isfinite(directions).all() or directions.shape[0] != dims or directions.ndim != 2:
        raise ScanError(path, f"has a space '{header.get('space')}' that is not understood; write it as LPS or RAS")
    return {
        "sizes": np.asarray(header["sizes"]),
        "space": space,
        "space directions": directions,
        "space origin": origin,
    }
