# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is checked before a library reads a file: that no length in it makes the library ask for more than there is."""

from __future__ import annotations

import gzip
import math
import os
import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.memory import describe_shortage

__all__ = ["DEFAULT_MAX_BYTES", "check_nifti_header", "check_size", "open_in_memory"]

#: The largest scan that is read, as float32: 1024³ voxels. A header that claims more is damaged or not a head.
DEFAULT_MAX_BYTES = 4 * 2**30

#: Header extensions hold comments and protocol records, kilobytes as a rule; voxels begin behind them.
_MAX_OFFSET = 16 * 2**20
_FIRST_EXTENSION = 4  # bytes behind the header
_BLOCK = 16
_BYTES_PER_VOXEL = 4  # everything is processed as float32


def open_in_memory(path: str | os.PathLike[str], max_bytes: int) -> BytesIO:
    """Read a file whole. From memory a library gets at most what is there, whatever length a record claims.

    Raises:
        ScanError: when the file itself is larger than ``max_bytes``.
    """
    size = os.path.getsize(path)
    if size > max_bytes:
        raise ScanError(path, f"has {size / 2**30:.1f} GiB; the limit is {max_bytes / 2**30:.1f} GiB")
    with open(path, "rb") as file:
        return BytesIO(file.read())


def check_size(path: str, shape: Sequence[int], max_bytes: int) -> None:
    """Refuse an image whose header claims more than there may be or the machine has, before any memory is taken.

    Raises:
        ScanError: naming the file.
    """
    claimed = math.prod(int(size) for size in shape) * _BYTES_PER_VOXEL
    if claimed > max_bytes:
        raise ScanError(
            path, f"claims shape {tuple(shape)}, {claimed / 2**30:.1f} GiB; the limit is {max_bytes / 2**30:.1f} GiB"
        )
    if shortage := describe_shortage(claimed):
        raise ScanError(path, shortage)


def check_nifti_header(path: str, content: bytes | None = None) -> None:
    """Walk through a NIfTI header and its extensions, which nibabel reads whole and believes.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        content: the file's bytes, unpacked, where they are in memory already.

    Raises:
        ScanError: when voxels begin far behind the header, or an extension is larger than its place. What is no NIfTI
            header at all is left to nibabel.
    """
    with _open(path, content) as file:
        start = file.read(4)
        for order in "<>":
            if start == struct.pack(f"{order}i", 348):
                size, place, form = 348, 108, f"{order}f"
                break
            if start == struct.pack(f"{order}i", 540):
                size, place, form = 540, 168, f"{order}q"
                break
        else:
            return
        header = start + file.read(size - 4)
        if len(header) < size:
            return
        (offset,) = struct.unpack_from(form, header, place)
        if not 0 <= offset <= _MAX_OFFSET:
            raise ScanError(path, f"has a damaged header: its voxels begin at byte {offset:.6g}")
        _check_extensions(path, file, order, int(offset) - size - _FIRST_EXTENSION)


def _open(path: str, content: bytes | None) -> Any:
    if content is not None:
        return BytesIO(content)
    return gzip.open(path, "rb") if path.lower().endswith(".gz") else open(path, "rb")


def _check_extensions(path: str, file: Any, order: str, left: int) -> None:
    flag = file.read(_FIRST_EXTENSION)
    if len(flag) < _FIRST_EXTENSION or not flag[0]:
        return
    # An offset of 0 leaves the end open, and nibabel reads on as long as it finds extensions.
    left = left if left >= 0 else _MAX_OFFSET
    while left >= _BLOCK and len(record := file.read(8)) == 8:
        (size,) = struct.unpack(f"{order}i", record[:4])
        if not 8 <= size <= left:
            raise ScanError(path, f"has a damaged header: an extension of {size} bytes where {left} are left")
        file.seek(size - 8, os.SEEK_CUR)
        left -= size
