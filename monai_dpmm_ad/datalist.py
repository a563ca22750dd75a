# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From the paths that a user gives to a list of scans, each with an output name of its own.

An item is a dictionary: ``image`` (a path, or the list of files of a DICOM series that shares its folder with others),
``label`` (a path, where there is a mask), ``abnormal`` (0 or 1, where it is known), ``name`` (unique, safe in a file
name), and whatever else a datalist file gives. Nothing here opens an image, so that a damaged one fails on its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_dpmm_ad.errors import ScanError, unknown_option
from monai_dpmm_ad.scan_paths import (
    IMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    has_suffix,
    import_pydicom,
    is_dicom_file,
    safe_name,
    scan_stem,
    unique_names,
)

__all__ = ["KINDS", "resolve_datalist", "split_by_subject"]

Item = dict[str, Any]

#: What ``resolve_datalist`` may be told to look for in folders.
KINDS = ("auto", "nifti", "dicom", "picture")

_OWN_OUTPUTS = ("_anomaly", "_mask")
_SECTIONS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val"),
    "test": ("test", "testing"),
}
_CLASSES = {"good": 0, "ungood": 1}
_MASK_FOLDERS = ("label", "anomaly_mask")
# BIDS's sub-XX, and the common words for a person followed by a number: patient07, case_12, subject-3.
_SUBJECT = re.compile(
    r"(?:^|[_.\-])(sub-[a-z0-9]+|(?:subject|subj|sub|patient|pat|pid|case|volunteer)[_\-]?\d+)", re.IGNORECASE
)


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


def split_by_subject(items: Sequence[Item], fraction: float, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Hold out a share of the subjects, never some of a subject's scans or slices.

    A subject is what an item's ``subject`` says; else the part of its path that names a person (``sub-01``,
    ``patient07``, ``case_3``), the innermost one; else the file itself.

    Args:
        items: a datalist.
        fraction: the share of subjects to hold out, in [0, 1): rounded, but at least one and never all.
        seed: the same seed and subjects give the same split, in whatever order the items come.

    Returns:
        The items to train on and the items held out. The latter is empty when ``fraction`` is 0 or there is only one
        subject.

    Raises:
        ValueError: when ``fraction`` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"`fraction` must be at least 0 and below 1, got {fraction}.")
    subjects = [_subject(item) for item in items]
    unique = sorted(set(subjects))
    count = min(max(round(fraction * len(unique)), 1), len(unique) - 1) if fraction and unique else 0
    order = np.random.default_rng(seed).permutation(len(unique))
    held_out = {unique[index] for index in order[:count]}
    train = [item for item, subject in zip(items, subjects, strict=True) if subject not in held_out]
    rest = [item for item, subject in zip(items, subjects, strict=True) if subject in held_out]
    return train, rest


def _subject(item: Item) -> str:
    if item.get("subject") is not None:
        return f"subject:{item['subject']}"
    path = _first_file(item)
    for part in reversed(path.parts):
        match = _SUBJECT.search(part)
        if match:
            return match.group(1).lower()
    return str(path)


def _items_of(path: Path, section: str | None, kind: str) -> list[Item]:
    if path.is_dir():
        tree = _bmad_sections(path)
        items = _read_bmad(path, tree, section) if tree else _search_folder(path, kind)
    elif not path.exists():
        raise ScanError(path, "no such file or folder")
    elif path.suffix.lower() == ".json":
        items = _read_json(path, section)
    else:
        items = [{"image": str(path)}]
    return items


# ---------------------------------------------------------------------------------------------------------- folders


def _search_folder(folder: Path, kind: str) -> list[Item]:
    try:
        files = _walk(folder)
    except OSError as error:
        raise ScanError(folder, f"cannot be read: {error.strerror}") from error
    wanted = {"nifti": NIFTI_SUFFIXES, "picture": PICTURE_SUFFIXES, "dicom": (), "auto": IMAGE_SUFFIXES}[kind]
    images = [file for file in files if has_suffix(file, wanted)] if wanted else []
    kept = [file for file in images if not scan_stem(file).endswith(_OWN_OUTPUTS)]
    items: list[Item] = [{"image": str(file)} for file in kept]
    if kind in ("auto", "dicom"):
        items += _dicom_series(folder, [file for file in files if not has_suffix(file, IMAGE_SUFFIXES)])
    if not items:
        skipped = len(images) - len(kept)
        detail = f" ({skipped} files named *_anomaly or *_mask were left out)" if skipped else ""
        raise ScanError(folder, "is an empty folder" if not files else f"holds no images{detail}")
    return items


def _walk(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; hidden ones and macOS's shadow files are no scans."""

    def fail(error: OSError) -> None:
        raise error

    files = []
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        files += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
    return sorted(files)


def _dicom_series(folder: Path, files: list[Path]) -> list[Item]:
    """One item for each series: its folder, or its files where several series share a folder."""
    candidates = [file for file in files if file.name.upper() != "DICOMDIR" and is_dicom_file(file)]
    if not candidates:
        return []
    try:
        pydicom = import_pydicom()
    except ImportError as error:
        raise ScanError(folder, str(error)) from error
    series: dict[Path, dict[str, list[str]]] = {}
    for file in candidates:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Rows"])
        except (pydicom.errors.InvalidDicomError, OSError, ValueError):
            header = {"SeriesInstanceUID": f"unreadable {file.name}", "Rows": 1}
        if header.get("Rows"):  # reports and presentation states have no pixels
            uid = str(header.get("SeriesInstanceUID", ""))
            series.setdefault(file.parent, {}).setdefault(uid, []).append(str(file))
    items: list[Item] = []
    for parent, by_uid in sorted(series.items()):
        for uid, members in by_uid.items():
            if len(by_uid) == 1:
                items.append({"image": str(parent)})
            elif len(members) == 1:
                items.append({"image": members[0]})
            else:
                items.append({"image": members, "name": f"{scan_stem(parent)}_{uid.rsplit('.', 1)[-1]}"})
    return items


# ------------------------------------------------------------------------------------------------------------- BMAD


def _bmad_sections(root: Path) -> dict[str, Path]:
    """The sections of a BMAD-style tree by their canonical names; empty when the folder is no such tree.

    A folder that is itself one section, with ``good`` or ``Ungood`` in it, is taken whatever section is asked for: its
    key is empty.
    """
    if _class_folders(root):
        return {"": root}
    found = {_canonical(folder.name): folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    return {name: folder for name, folder in found.items() if name in _SECTIONS and _class_folders(folder)}


def _canonical(name: str) -> str:
    return next((key for key, synonyms in _SECTIONS.items() if name.lower() in synonyms), name.lower())


def _class_folders(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name.lower() in _CLASSES]


def _read_bmad(root: Path, sections: dict[str, Path], section: str | None) -> list[Item]:
    if section is not None and "" not in sections:
        if _canonical(section) not in sections:
            raise ScanError(root, f"has no section '{section}', only {', '.join(sections)}")
        sections = {section: sections[_canonical(section)]}
    items: list[Item] = []
    for folder in sections.values():
        for class_folder in _class_folders(folder):
            items += _read_class(class_folder)
    if not items:
        raise ScanError(root, "holds no images in its good and Ungood folders")
    return items


def _read_class(folder: Path) -> list[Item]:
    images = folder / "img" if (folder / "img").is_dir() else folder
    masks: dict[str, Path] = {}
    for name in _MASK_FOLDERS:
        if (folder / name).is_dir():
            masks |= {scan_stem(file): file for file in _images_in(folder / name)}
    items: list[Item] = []
    for file in _images_in(images):
        item: Item = {"image": str(file), "abnormal": _CLASSES[folder.name.lower()]}
        if scan_stem(file) in masks:
            item["label"] = str(masks[scan_stem(file)])
        items.append(item)
    return items


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if has_suffix(file, IMAGE_SUFFIXES) and file.name[0] != ".")


# ------------------------------------------------------------------------------------------------------------- JSON


def _read_json(path: Path, section: str | None) -> list[Item]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScanError(path, f"is not a readable JSON file ({str(error).splitlines()[0]})") from error
    lists = (
        {key: value for key, value in content.items() if isinstance(value, list)} if isinstance(content, dict) else {}
    )
    chosen = _choose_lists(path, lists, section)
    entries = [entry for entries in chosen for entry in entries]
    if not entries:
        raise ScanError(path, "lists no images")
    return [_json_item(path, entry) for entry in entries]


def _choose_lists(path: Path, lists: dict[str, list], section: str | None) -> list[list]:
    known = {synonym for synonyms in _SECTIONS.values() for synonym in synonyms}
    if section is None:
        return [entries for key, entries in lists.items() if key in known] or list(lists.values())
    for key in (section, *_SECTIONS.get(_canonical(section), ())):
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
    for key in ("image", "label"):
        if isinstance(item.get(key), list):
            item[key] = [_absolute(path, part) for part in item[key]]
        elif key in item:
            item[key] = _absolute(path, item[key])
    return item


def _absolute(path: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise ScanError(path, f"has an entry whose path is not text: {json.dumps(name)[:80]}")
    return os.path.normpath(path.absolute().parent / Path(name).expanduser())


def _first_file(item: Item) -> Path:
    image = item["image"]
    return Path(image if isinstance(image, str) else image[0])


def _without_duplicates(items: list[Item]) -> list[Item]:
    seen: dict[str, Item] = {}
    for item in items:
        image = item["image"]
        key = os.path.realpath(image) if isinstance(image, str) else "\n".join(map(os.path.realpath, image))
        seen.setdefault(key, item)
    return list(seen.values())


def _name_parts(item: Item) -> list[str]:
    path = _first_file(item).absolute()
    parents = [safe_name(part) for part in path.parts[1:-1] if part != "img"]
    return [*parents, safe_name(str(item["name"])) if item.get("name") else scan_stem(path)]
