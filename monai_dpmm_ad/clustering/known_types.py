# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Known types of scans, from a table beside the data."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["find_types", "find_types_file", "read_types"]

FILE_NAME = "types.csv"
_LEVELS = 4  # a BMAD-style tree keeps its pictures that deep


def find_types(
    images: Sequence[str], searched: Sequence[str], given: str | os.PathLike[str] | None = None
) -> list[str | None]:
    """Find the known type of each scan.

    Args:
        images: paths of the scans.
        searched: where to look for ``types.csv``, see :func:`find_types_file`.
        given: the table that the user names instead.

    Returns:
        As many types; None where nothing tells.

    Raises:
        ValueError: as :func:`read_types`, or a table that the user names and that tells of no scan.
    """
    file = find_types_file(searched) if given is None else Path(given)
    if file is None:
        return [None] * len(images)
    types = read_types(file, images)
    if given is not None and not any(types):
        raise ValueError(f"`types` must name the scans, got {file}, which names none of them.")
    return types


def find_types_file(paths: Sequence[str | os.PathLike[str]]) -> Path | None:
    """Look for ``types.csv`` in the folders that the user named and up to four above; None where there is none."""
    for path in map(Path, paths):
        path = path.absolute()
        for folder in [path, *path.parents][: _LEVELS + 1]:
            if (folder / FILE_NAME).is_file():
                return folder / FILE_NAME
    return None


def read_types(path: str | os.PathLike[str], images: Sequence[str]) -> list[str | None]:
    """Read the type of each scan.

    The table has the columns ``file`` (a file name) and ``type``; where file names repeat, ``split`` must be one of
    the folders on the way to the scan.

    Args:
        path: CSV with a header.
        images: paths of the scans.

    Returns:
        As many types; None where the table does not tell.

    Raises:
        ValueError: a file without these columns, or that cannot be read as text.
    """
    path = Path(path)
    rows: dict[str, list[tuple[str, str]]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if not {"file", "type"} <= set(table.fieldnames or ()):
                raise ValueError(f"{path}: must have the columns file and type, got {table.fieldnames}.")
            for row in table:
                rows.setdefault(row["file"] or "", []).append((row.get("split") or "", row["type"] or ""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: must be a CSV file in UTF-8 ({error}).") from error
    return [_choose(rows.get(Path(image).name, []), Path(image).parts) for image in images]


def _choose(candidates: list[tuple[str, str]], folders: tuple[str, ...]) -> str | None:
    types = {type_ for split, type_ in candidates if not split or split in folders}
    if len(candidates) == 1:
        types = {candidates[0][1]}
    return types.pop() or None if len(types) == 1 else None
