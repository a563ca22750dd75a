# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read a Decathlon-style datalist."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.bmad import SECTIONS, canonical_section
from monai_dpmm_ad.data.paths import IMAGE_SUFFIXES, has_suffix
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.files import read_json

__all__ = ["read_datalist"]


def read_datalist(path: Path, section: str | None) -> list[Item]:
    """List the scans of a datalist file.

    Args:
        path: the file; paths in it are relative to its folder.
        section: name of a list; None takes every known section, or all lists.

    Raises:
        ScanError: when the file is no datalist, or has no such section.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ScanError(path, str(error).removeprefix(f"{path}: ").splitlines()[0]) from error
    lists = (
        {key: value for key, value in content.items() if isinstance(value, list)} if isinstance(content, dict) else {}
    )
    chosen = _choose_lists(path, lists, section)
    entries = [entry for entries in chosen for entry in entries]
    if not entries:
        raise ScanError(path, "lists no images")
    return [_json_item(path, entry) for entry in entries]


def _choose_lists(path: Path, lists: dict[str, list], section: str | None) -> list[list]:
    known = {synonym for synonyms in SECTIONS.values() for synonym in synonyms}
    if section is None:
        return [entries for key, entries in lists.items() if key in known] or list(lists.values())
    for key in (section, *SECTIONS.get(canonical_section(section), ())):
        if key in lists:
            return [lists[key]]
    found = ", ".join(lists) or "no list at all"
    raise ScanError(path, f"has no section '{section}', only {found}")


def _json_item(path: Path, entry: Any) -> Item:
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict) or not entry.get("image"):
        raise ScanError(path, f"has an entry without `image`: {json.dumps(entry)[:80]}")
    item: Item = {key: value for key, value in entry.items() if value is not None}
    image = item["image"]
    if isinstance(image, list) and any(isinstance(part, str) and has_suffix(part, IMAGE_SUFFIXES) for part in image):
        if len(image) > 1:
            raise ScanError(
                path,
                f"has an entry with {len(image)} images, {json.dumps(image)[:80]}; a scan is one image, channels are "
                "not joined: list one of them (a list of files is for the slices of a DICOM series)",
            )
        item["image"] = image[0]
    for key in ("image", "label", "regions"):
        if isinstance(item.get(key), list):
            item[key] = [_absolute(path, part) for part in item[key]]
        elif key in item:
            item[key] = _absolute(path, item[key])
    return item


def _absolute(path: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise ScanError(path, f"has an entry whose path is not text: {json.dumps(name)[:80]}")
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise ScanError(path, f"has an entry whose path no file can have: {json.dumps(name)[:80]}")
    folder = path.absolute().parent
    plain = os.path.normpath(folder / Path(name).expanduser())
    if "\\" in name and not os.path.exists(plain):  # written on Windows
        plain = os.path.normpath(folder / Path(name.replace("\\", "/")))
    return plain
