# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Notice files that are not what was written: a flipped bit in a model changes volumes and says nothing."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_dpmm_ad.utils.files import file_sha256

__all__ = ["check_archive", "check_sums", "digest_tensors"]

SUMS = "SHA256SUMS"


def check_archive(path: str | os.PathLike[str]) -> None:
    """Check a checkpoint of ``torch.save`` before it is loaded, which looks at no checksum.

    Raises:
        ValueError: when a record is compressed, which could unpack to more than the file has, or damaged.
        zipfile.BadZipFile: when it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        if any(record.file_size != record.compress_size for record in archive.infolist()):
            raise ValueError("it is compressed")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} does not fit")


def digest_tensors(state: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and values of tensors on the CPU, whatever file they are in or come from.

    Args:
        state: a state dict.

    Returns:
        64 hexadecimal digits.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def check_sums(folder: str | os.PathLike[str]) -> None:
    """Check the files that a folder's ``SHA256SUMS`` lists, as ``sha256sum --check`` does.

    Raises:
        ValueError: naming the file that is not as it was, or that is missing.
    """
    for line in (Path(folder) / SUMS).read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if found is None:
            raise ValueError(f"{Path(folder) / SUMS}: is no list of checksums")
        path = Path(folder) / found[2]
        if not path.is_file() or file_sha256(path) != found[1]:
            raise ValueError(f"{path}: is missing or not as it was shipped")
