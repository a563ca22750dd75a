# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which held-out scans are fitted ones under another name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.paths import scan_files
from monai_dpmm_ad.data.sequences import image_files
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.utils.distributed import get_rank
from monai_dpmm_ad.utils.files import file_sha256
from monai_dpmm_ad.utils.log import LOG

__all__ = ["warn_of_copies"]


def warn_of_copies(scans: Sequence[Mapping[str, Any]], train: Sequence[Item], held_out: Sequence[Item]) -> None:
    """Say which held-out scans are copies of fitted ones; the first process does.

    Args:
        scans: both, as :func:`~monai_dpmm_ad.bundle.provenance.describe_scans` gives them.
        train: the fitted ones, as a datalist has them.
        held_out: the others.
    """
    if get_rank() != 0:
        return
    fitted = {scan["sha256"] for scan in scans if scan["role"] == "fitted"} - {None}
    same = {scan["name"] for scan in scans if scan["role"] == "held_out" and scan["sha256"] in fitted}
    with suppress(OSError):  # what is gone by now is no copy
        same |= _find_renamed(train, held_out)
    if copies := [str(item["name"]) for item in held_out if item["name"] in same]:
        shown = ", ".join(copies[:3]) + ", …" * (len(copies) > 3)
        LOG.warning(
            "warning: %d held-out scans are copies of fitted ones, so thresholds are too low: %s", len(copies), shown
        )


def _find_renamed(train: Sequence[Item], held_out: Sequence[Item]) -> set[str]:
    """Names of held-out scans of several files whose largest one is a fitted scan's.

    A scan's own digest knows its files by their names. Only files as large as one that is looked for are read.
    """
    largest = {item["name"]: max(files) for item in held_out if (files := _list_files(item))}
    sizes = {size for size, _ in largest.values()}
    known = {file_sha256(file) for item in train for size, file in _list_files(item) if size in sizes}
    return {name for name, (_, file) in largest.items() if file_sha256(file) in known} if known else set()


def _list_files(item: Item) -> list[tuple[int, Path]]:
    """Size and path of the files of a scan that has several."""
    images = image_files(item)
    paths = [Path(image) for image in ([images] if isinstance(images, str) else images)]
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else scan_files(path))]
    return [(file.stat().st_size, file) for file in files if file.is_file()] if len(files) > 1 else []
