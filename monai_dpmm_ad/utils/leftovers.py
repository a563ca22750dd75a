# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Remove the temporary files that a killed or interrupted process left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_dpmm_ad.utils.files import PARTIAL, partial_prefix

__all__ = ["remove_leftovers", "without_leftovers"]


def remove_leftovers(*folders: str | os.PathLike[str]) -> None:
    """Remove the temporary files that a killed process left in folders; no other may be writing there."""
    for folder in folders:
        _remove_all(Path(folder), PARTIAL)


@contextmanager
def without_leftovers(path: str | os.PathLike[str]) -> Iterator[None]:
    """Write a file or folder: nothing temporary is left of it by a run that was killed, nor by this one after a signal.

    A signal that comes when it has its final name is not heard any more: the same command would be refused.

    Args:
        path: its final name; no other process may be writing it.
    """
    path = Path(path)
    _remove_all(path.parent, partial_prefix(path))
    before = _identify(path)
    try:
        yield
    except KeyboardInterrupt:
        _remove_all(path.parent, partial_prefix(path))  # a signal comes at any moment
        if _identify(path) in (None, before):
            raise


def _identify(path: Path) -> tuple[int, int] | None:
    """What a name stands for now; None for nothing."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove_all(folder: Path, prefix: str) -> None:
    for path in folder.glob(f"{prefix}*"):
        if path.is_dir() and not path.is_symlink():  # a bundle that was being unpacked
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
