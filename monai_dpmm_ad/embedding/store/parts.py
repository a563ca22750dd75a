# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Stores that several processes write side by side, and how they become one.

Each process writes a part, a store of its own beside the final one. Afterwards one process takes the parts over: their
shards are linked into the final store's folder, its manifest names them in one step, and only then a part is removed.
A death at any moment leaves the final store and the parts that it has not named yet, which the next run takes over.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from monai_dpmm_ad.embedding.store.format import MANIFEST
from monai_dpmm_ad.embedding.store.writer import StoreWriter

__all__ = ["adopt_parts", "part_path"]


def part_path(path: str | os.PathLike[str], rank: int, world_size: int) -> Path:
    """Folder of one process's part of the store ``path``."""
    return Path(f"{os.fspath(path)}-part{rank}of{world_size}")


def adopt_parts(writer: StoreWriter) -> None:
    """Bring what the parts of a store hold into the store, and remove them.

    Args:
        writer: of the final store.

    Raises:
        EmbeddingStoreError: a part of another backbone or with other settings, a damaged one, or a full disk.
    """
    name = re.compile(re.escape(writer.path.name) + r"-part\d+of\d+")
    for part in sorted(folder for folder in writer.path.parent.iterdir() if name.fullmatch(folder.name)):
        if (part / MANIFEST).is_file():  # else its process died before it wrote anything
            writer.adopt(part)
        shutil.rmtree(part)
