# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What scans are, whatever they are called: digests of their files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.paths import scan_files
from monai_dpmm_ad.data.sequences import image_files
from monai_dpmm_ad.utils.distributed import gather_lists, get_world_size, share
from monai_dpmm_ad.utils.files import file_sha256

__all__ = ["hash_scans", "hash_with_labels"]


def hash_scans(items: Sequence[Mapping[str, Any]], key: str = "image") -> list[str | None]:
    """SHA-256 of each scan's files, shared among the processes.

    Args:
        items: of a datalist.
        key: ``image`` or ``label``.

    Returns:
        64 hexadecimal digits each: of the file, or of the names and digests of a series' files; None where there is
        none or it cannot be read.
    """
    found = gather_lists([_hash(image_files(item) if key == "image" else item.get(key)) for item in share(items)])
    # Process r has items r, r + W, …; bring them back into order.
    order = [number for rank in range(get_world_size()) for number in range(rank, len(items), get_world_size())]
    by_number = dict(zip(order, found, strict=True))
    return [by_number[number] for number in range(len(items))]


def hash_with_labels(items: Sequence[Mapping[str, Any]]) -> list[tuple[str | None, str | None]]:
    """SHA-256 of each scan's files and of its label's, as `hash_scans` gives them."""
    return list(zip(hash_scans(items), hash_scans(items, "label"), strict=True))


def _hash(path: Any) -> str | None:
    if not path:
        return None
    paths = [Path(path)] if isinstance(path, str) else [Path(part) for part in path]
    try:
        files = [file for part in paths for file in (sorted(part.iterdir()) if part.is_dir() else scan_files(part))]
        if files == paths and len(paths) == 1 and paths[0].is_file():
            return file_sha256(paths[0])
        digest = hashlib.sha256()
        for file in files:
            if file.is_file():
                digest.update(os.fsencode(file.name) + f"\0{file_sha256(file)}\n".encode())
        return digest.hexdigest()
    except OSError:
        return None
