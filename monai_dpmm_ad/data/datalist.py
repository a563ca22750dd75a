# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Find the scans behind paths of every kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from monai_dpmm_ad.data.bmad import find_tree, read_tree
from monai_dpmm_ad.data.folders import search_folder
from monai_dpmm_ad.data.json_file import read_datalist
from monai_dpmm_ad.data.paths import safe_name, scan_stem, unique_names
from monai_dpmm_ad.data.subjects import first_file
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError, unknown_option

__all__ = ["KINDS", "add_regions", "resolve_datalist"]

#: What ``resolve_datalist`` may be told to look for in folders.
KINDS = ("auto", "nifti", "dicom", "picture")


def resolve_datalist(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    section: str | None = None,
    kind: str = "auto",
    failures: list[ScanError] | None = None,
) -> list[Item]:
    """Find the scans behind the paths that a user gave.

    A path is an image file, a folder (searched recursively for NIfTI files, pictures and DICOM series), a BMAD-style
    tree (``train|valid|test / good|Ungood``, images in it or in ``img``, masks of the same stem in ``label`` or
    ``anomaly_mask``), or a Decathlon-style datalist in JSON. Files named ``*_anomaly`` or ``*_mask`` are our own
    outputs and left out when a folder is searched (a file named by itself is always taken). A scan that two paths lead
    to is taken once.

    Args:
        paths: one path or several.
        section: "train", "valid", "test" or a key of the datalist file; ``None`` takes every section. It has no effect
            on paths without sections.
        kind: what to look for in a folder: "auto" (everything), "nifti", "dicom" or "picture".
        failures: collects the ``ScanError`` of each path that leads nowhere, so that the others still count.

    Returns:
        Items in the order of the paths, within a path in the order of the file names.

    Raises:
        ScanError: when a path leads nowhere and ``failures`` is ``None``.
        ValueError: when ``kind`` is unknown.

    Example:
        >>> resolve_datalist("no/such/scan.nii.gz")
        Traceback (most recent call last):
        monai_dpmm_ad.errors.ScanError: no/such/scan.nii.gz: no such file or folder
    """
    if kind not in KINDS:
        raise unknown_option("kind", kind, KINDS)
    items: list[Item] = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        try:
            items += _items_of(Path(path).expanduser(), section, kind)
        except ScanError as error:
            if failures is None:
                raise
            failures.append(error)
    items = _without_duplicates(items)
    names = unique_names([_name_parts(item) for item in items])
    return [{**item, "name": name} for item, name in zip(items, names, strict=True)]


def add_regions(items: Sequence[Item], atlas: str | os.PathLike | None) -> list[Item]:
    """Give every item that has no ``regions`` of its own the same atlas.

    Args:
        items: a datalist.
        atlas: an integer volume in the space of all scans; None changes nothing.

    Example:
        >>> add_regions([{"image": "a.nii.gz"}], "atlas.nii.gz")
        [{'regions': 'atlas.nii.gz', 'image': 'a.nii.gz'}]
    """
    return [dict(item) if atlas is None else {"regions": os.fspath(atlas), **item} for item in items]


def _items_of(path: Path, section: str | None, kind: str) -> list[Item]:
    if path.is_dir():
        tree = find_tree(path)
        items = read_tree(path, tree, section) if tree else search_folder(path, kind)
    elif not path.exists():
        raise ScanError(path, "no such file or folder")
    elif path.suffix.lower() == ".json":
        items = read_datalist(path, section)
    else:
        items = [{"image": str(path)}]
    return items


def _without_duplicates(items: list[Item]) -> list[Item]:
    seen: dict[str, Item] = {}
    for item in items:
        image = item["image"]
        key = os.path.realpath(image) if isinstance(image, str) else "\n".join(map(os.path.realpath, image))
        seen.setdefault(key, item)
    return list(seen.values())


def _name_parts(item: Item) -> list[str]:
    path = first_file(item).absolute()
    parents = [safe_name(part) for part in path.parts[1:-1] if part != "img"]
    return [*parents, safe_name(str(item["name"])) if item.get("name") else scan_stem(path)]
