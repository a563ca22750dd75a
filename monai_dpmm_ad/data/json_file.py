# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read a Decathlon-style datalist."""

from __future__ import annotations

import difflib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.bmad import SECTIONS, canonical_section
from monai_dpmm_ad.data.nifti import open_volume
from monai_dpmm_ad.data.paths import IMAGE_SUFFIXES, NIFTI_SUFFIXES, has_suffix
from monai_dpmm_ad.data.sequences import make_scan
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.files import read_json

__all__ = ["read_datalist"]

#: Where a file names the sequences of all of its entries: ours, nnU-Net's, the Decathlon's.
_NAMING = ("channels", "channel_names", "modality")
#: What an entry may say.
_KEYS = ("image", "label", "abnormal", "regions", "subject", "name", "channels", "covariates")


def read_datalist(path: Path, section: str | None) -> list[Item]:
    """List the scans of a datalist file.

    An entry of several sequences has ``channels``, their names, and a list as ``image``, null for one that is missing,
    or a 4D file. The file may say ``channels`` for all entries, as the Decathlon does in ``modality`` and nnU-Net in
    ``channel_names``.

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
    if not isinstance(content, dict):
        raise ScanError(path, 'is no datalist, an object with lists of scans: {"training": [{"image": "a.nii.gz"}]}')
    lists = {key: value for key, value in content.items() if isinstance(value, list) and key not in _NAMING}
    chosen = _choose_lists(path, lists, section)
    entries = [entry for entries in chosen for entry in entries]
    if not entries:
        raise ScanError(path, "lists no images")
    _warn_of_typos(path, entries)
    names = _name_channels(content)
    return [_json_item(path, entry, names) for entry in entries]


def _warn_of_typos(path: Path, entries: list[Any]) -> None:
    """Say which keys of entries are nearly known ones; others are the user's own and mean nothing here."""
    asides = {
        (key, near[0])
        for entry in entries
        if isinstance(entry, dict)
        for key in entry.keys() - set(_KEYS)
        if (near := difflib.get_close_matches(key.lower(), _KEYS, n=1, cutoff=0.8)) and near[0] not in entry
    }
    for key, near in sorted(asides):
        warnings.warn(f"{path}: entries have the key '{key}', which is not read. Did you mean '{near}'?", stacklevel=2)


def _name_channels(content: dict[str, Any]) -> list[Any]:
    """The names of the sequences that a file gives for all of its entries; empty where there are not several."""
    for key in _NAMING:
        found = content.get(key)
        names = list(found.values()) if isinstance(found, dict) else found
        if isinstance(names, list) and len(names) > 1:
            return names
    return []


def _choose_lists(path: Path, lists: dict[str, list], section: str | None) -> list[list]:
    known = {synonym for synonyms in SECTIONS.values() for synonym in synonyms}
    if section is None:
        return [entries for key, entries in lists.items() if key in known] or list(lists.values())
    for key in (section, *SECTIONS.get(canonical_section(section), ())):
        if key in lists:
            return [lists[key]]
    found = ", ".join(lists) or "no list at all"
    raise ScanError(path, f"has no section '{section}', only {found}")


def _json_item(path: Path, entry: Any, names: list[Any]) -> Item:
    if isinstance(entry, str):
        entry = {"image": entry}
    known = entry.items() if isinstance(entry, dict) else ()
    item: Item = {key: value for key, value in known if not _is_empty(value)}
    if not item.get("image"):
        raise ScanError(path, f"has an entry without `image`: {json.dumps(entry)[:80]}")
    if "abnormal" in item:
        item["abnormal"] = _read_class(path, item["abnormal"])
    own = item.pop("channels", None)
    image = item["image"]
    listed = isinstance(image, list) and any(
        isinstance(part, str) and has_suffix(part, IMAGE_SUFFIXES) for part in image
    )
    if listed and len(image) > 1 and not own and not names:
        raise ScanError(
            path,
            f"has an entry with {len(image)} images, {json.dumps(image)[:80]}, and no `channels` that name them: write "
            '"channels": ["T1", "FLAIR"] beside them, or list one (a list of files alone is a DICOM series)',
        )
    for key in ("label", "regions"):
        if key in item:
            item[key] = _absolute_all(path, item[key])
    if own is not None or (listed and names) or (isinstance(image, str) and _holds(_absolute(path, image), len(names))):
        return _join_channels(path, item, own or names)
    item["image"] = _absolute_all(path, image[0] if listed else image)
    return item


def _is_empty(value: Any) -> bool:
    """Whether an entry says nothing: null, and what a table's empty cell becomes, "" or NaN."""
    return value is None or value == "" or value != value


def _read_class(path: Path, value: Any) -> int:
    """A class as a number, also where a table's cell became text: "0" would count as true."""
    known = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
    number = known.get(str(value).strip().lower())
    if number is None:
        raise ScanError(path, f"has an entry whose `abnormal` is {json.dumps(value)[:80]}; write 1, or 0 for normal")
    return number


def _holds(image: str, number: int) -> bool:
    """Whether a file holds so many volumes, two or more; one that cannot be read fails when it is loaded."""
    if number < 2 or not has_suffix(image, NIFTI_SUFFIXES) or not os.path.isfile(image):
        return False
    try:
        return tuple(open_volume(image).shape[3:]) == (number,)
    except Exception:
        return False


def _join_channels(path: Path, item: Item, names: Any) -> Item:
    """Make a scan of the sequences of an entry, each a file or one volume of a 4D file."""
    image = item["image"]
    images = image if isinstance(image, list) else [image]
    plain = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    if not plain or (isinstance(image, list) and len(image) != len(names)):
        raise ScanError(
            path, f"has an entry whose `channels` do not name its images: {json.dumps([image, names])[:120]}"
        )
    if isinstance(image, str) and len(names) > 1:
        scan = make_scan(item, [_absolute(path, image)] * len(names), names)
        for channel, part in enumerate(scan["sequences"].values()):
            part["channel"] = channel
        return scan
    if not any(images):
        raise ScanError(path, f"has an entry without `image`: {json.dumps(item)[:80]}")
    return make_scan(item, [part and _absolute_all(path, part) for part in images], names)


def _absolute_all(path: Path, name: Any) -> Any:
    return [_absolute(path, part) for part in name] if isinstance(name, list) else _absolute(path, name)


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
