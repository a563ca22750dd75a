# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Find the scans behind paths of every kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.bids import choose_people
from monai_dpmm_ad.data.bmad import canonical_section, count_sections, find_tree, read_tree
from monai_dpmm_ad.data.choice import SERIES_KIND, check_one_series, take_once
from monai_dpmm_ad.data.dataset import ScanFailure
from monai_dpmm_ad.data.dicom_series import find_series, name_patient
from monai_dpmm_ad.data.folders import search_folder
from monai_dpmm_ad.data.gate import LeftOut, count_kinds, judge_file, summarise
from monai_dpmm_ad.data.json_file import read_datalist
from monai_dpmm_ad.data.nifti import open_volume
from monai_dpmm_ad.data.nnunet import find_image_folders, read_image_folders
from monai_dpmm_ad.data.paths import (
    IMAGE_SUFFIXES,
    NIBABEL_SUFFIXES,
    PICTURE_SUFFIXES,
    has_suffix,
    is_dicom_file,
    safe_name,
    scan_stem,
    unique_names,
)
from monai_dpmm_ad.data.sequences import group_by_suffix, join_searches
from monai_dpmm_ad.data.subjects import first_file
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError, unknown_option

__all__ = ["KINDS", "Found", "add_regions", "find_scans", "require_scans", "resolve_datalist"]

#: What ``resolve_datalist`` may be told to look for in folders.
KINDS = ("auto", "nifti", "dicom", "picture")


@dataclass
class Found:
    """What paths lead to.

    Args:
        items: the scans.
        left_out: what was found and is no scan of the kind that was asked for.
        failures: what the user named and cannot be processed; the others still are.
        sections: how many images lie in sections that were not asked for, by their names.
    """

    items: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    failures: list[ScanError] = field(default_factory=list)
    sections: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str | None:
        """One line for the user; None where everything was taken."""
        others = ", ".join(f"{count} of section {name}" for name, count in sorted(self.sections.items()) if count)
        return summarise(len(self.items), self.left_out, f" (not asked for: {others})" if others else "")

    def list_failures(self) -> list[ScanFailure]:
        """The failures as they are written to ``failures.csv``."""
        return [ScanFailure(scan_stem(error.path), error.path, error.reason) for error in self.failures]


def resolve_datalist(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    section: str | None = None,
    kind: str = "auto",
    failures: list[ScanError] | None = None,
    **choice: Any,
) -> list[Item]:
    """Find the scans behind the paths that a user gave: the items of `find_scans`.

    Args:
        paths: one path or several.
        section: see `find_scans`, as for the others.
        kind: what to look for in a folder.
        failures: collects the ``ScanError`` of each path that leads nowhere, so that the others still count.
        choice: ``suffix``, ``pattern``, ``participant_label``, ``session``, ``spatial_dims``.

    Raises:
        ScanError: when a path leads nowhere and ``failures`` is ``None``.
        ValueError: when ``kind`` is unknown.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "list.json"
        >>> _ = path.write_text(json.dumps({"test": [{"image": "a.nii.gz", "abnormal": 1}]}))
        >>> [(item["name"], item["abnormal"]) for item in resolve_datalist(path, section="test")]
        [('a', 1)]
    """
    found = find_scans(paths, section=section, kind=kind, **choice)
    if failures is None and found.failures:
        raise found.failures[0]
    if failures is not None:
        failures += found.failures
    return found.items


def find_scans(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    section: str | None = None,
    kind: str = "auto",
    suffix: str | Sequence[str] | None = None,
    pattern: str | None = None,
    participant_label: Sequence[str] | None = None,
    session: str | None = None,
    spatial_dims: int | None = None,
) -> Found:
    """Find the scans behind the paths that a user gave, and say what else lies there.

    A path is an image file, a folder (searched recursively for volumes, pictures and DICOM series), a BMAD-style tree
    (``train|valid|test / good|Ungood``, images in it or in ``img``, masks of the same stem in ``label`` or
    ``anomaly_mask``), a tree of nnU-Net or the Decathlon (``imagesTr``, ``labelsTr``, …), or a Decathlon-style datalist
    in JSON. What is no patient image is left out of a folder (:mod:`monai_dpmm_ad.data.gate`) and fails where the user
    names it. A scan that two paths lead to is taken once.

    Args:
        paths: one path or several.
        section: "train", "valid", "test" or a key of the datalist file; ``None`` takes every section. It has no effect
            on paths without sections.
        kind: what to look for in a folder: "auto" (everything), "nifti" (volumes), "dicom" or "picture".
        suffix: of the files in folders only those whose names end in it, for example ``T1w``; several are the sequences
            of one scan, see :func:`~monai_dpmm_ad.data.sequences.group_by_suffix`.
        pattern: of the files in folders only those whose names match, for example ``*_run-1_*``.
        participant_label: of BIDS names only those of these participants.
        session: of BIDS names only those of this session.
        spatial_dims: 3 leaves out pictures, 2 leaves out volumes, where the format says so.

    Returns:
        Items in the order of the paths, within a path in the order of the file names.

    Raises:
        ValueError: when ``kind`` is unknown.

    Example:
        >>> resolve_datalist("no/such/scan.nii.gz")
        Traceback (most recent call last):
        monai_dpmm_ad.errors.ScanError: no/such/scan.nii.gz: no such file or folder
    """
    if kind not in KINDS:
        raise unknown_option("kind", kind, KINDS)
    found = Found()
    suffixes = [suffix] if suffix is None or isinstance(suffix, str) else list(suffix)
    for path in map(Path, [paths] if isinstance(paths, (str, os.PathLike)) else paths):
        given = path.expanduser()  # whole paths, so that a scan is the same one wherever a command is given
        try:
            _search(found, given.absolute() if os.path.lexists(given) else given, section, kind, suffixes, pattern)
        except ScanError as error:
            found.failures.append(error)
    found.items, links = take_once(found.items)
    found.left_out += links
    if len(suffixes) > 1:
        found.items, twice = group_by_suffix(found.items, [word for word in suffixes if word is not None])
        found.failures += twice
    if participant_label is not None or session is not None:
        found.items, others = choose_people(found.items, participant_label, session)
        found.left_out += others
    if spatial_dims is not None:
        _keep_dims(found, spatial_dims)
    if suffix is None and pattern is None:
        _refuse_kinds(found)
    names = unique_names([_name_parts(item) for item in found.items])
    found.items = [
        {**{key: value for key, value in item.items() if key not in _INTERNAL}, "name": name}
        for item, name in zip(found.items, names, strict=True)
    ]
    return found


def require_scans(found: Found) -> Found:
    """Hand on what was found where there is a scan.

    Raises:
        ScanError: the first reason why there is none.

    Example:
        >>> import tempfile
        >>> from monai_dpmm_ad import find_scans
        >>> require_scans(find_scans(tempfile.mkdtemp()))
        Traceback (most recent call last):
            ...
        monai_dpmm_ad.errors.ScanError: ...
    """
    if found.items:
        return found
    if found.failures:
        raise found.failures[0]
    if found.left_out:
        first = found.left_out[0]
        raise ScanError(first.path, f"{first.reason}; no scan is left ({count_kinds(found.left_out)} left out)")
    raise ScanError("--images", "names no path")


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


_INTERNAL = ("series", "named", SERIES_KIND)  # what an item carries while names are given


def _search(
    found: Found, path: Path, section: str | None, kind: str, suffixes: Sequence[str | None], pattern: str | None
) -> None:
    if path.is_dir():
        items, left_out, sections = join_searches(_search_tree, path, section, kind, suffixes, pattern)
        found.left_out += left_out
        found.sections.update(sections)
    elif not path.exists():
        raise ScanError(path, "no such file or folder")
    elif path.suffix.lower() == ".json":
        items = [{**item, "named": True} for item in read_datalist(path, section)]
    else:
        items = [{"image": str(path), "named": True}]
    for item in items:
        refusal = _judge_named(item) if item.get("named") else None
        if refusal is None:
            found.items.append(item)
        else:
            found.failures.append(ScanError(refusal.path, refusal.reason))


def _search_tree(
    path: Path, section: str | None, kind: str, suffix: str | None, pattern: str | None
) -> tuple[list[Item], list[LeftOut], dict[str, int]]:
    tree = find_tree(path)
    if tree:
        return read_tree(path, tree, section), [], count_sections(tree, section)
    folders = find_image_folders(path)
    if folders:
        wanted = None if section is None else canonical_section(section)
        return read_image_folders(path, folders, wanted, suffix)
    return *search_folder(path, kind, suffix, pattern), {}


def _refuse_kinds(found: Found) -> None:
    """Take no DICOM series where they are of several kinds."""
    try:
        check_one_series(found.items)
    except ScanError as error:
        found.failures.append(error)
        found.items = [item for item in found.items if SERIES_KIND not in item]


def _judge_named(item: Item) -> LeftOut | None:
    """Judge a file that the user named; a name alone rules nothing out."""
    image = item["image"]
    if "subject" not in item and (patient := name_patient(image)):
        item["subject"] = patient
    if not isinstance(image, str) or not os.path.isfile(image):
        return None
    path, thing = Path(image), None
    if has_suffix(path, IMAGE_SUFFIXES):
        thing = judge_file(path)
    elif is_dicom_file(path):
        try:
            thing = next(iter(find_series([path])[1]), None)
        except ImportError:
            return None  # loading says what to install
    elif has_suffix(path, (".csv", ".tsv", ".xls", ".xlsx")):
        thing = LeftOut(image, "tables", "is a table, no image; a list of scans is a JSON file")
    return None if thing is None or thing.by_name else thing


def _keep_dims(found: Found, spatial_dims: int) -> None:
    kept = []
    for item in found.items:
        path = first_file(item)
        if spatial_dims == 3 and has_suffix(path, PICTURE_SUFFIXES):
            kind, reason = "pictures", "is a 2D picture; this bundle was fitted on 3D scans"
        elif spatial_dims == 2 and _is_volume(item, path):
            kind, reason = "volumes", "is a 3D volume; this bundle was fitted on 2D pictures"
        else:  # a single slice of a scanner counts as either
            kept.append(item)
            continue
        if item.get("named"):
            found.failures.append(ScanError(path, reason))
        else:
            found.left_out.append(LeftOut(str(path), kind, reason))
    found.items = kept


def _is_volume(item: Item, path: Path) -> bool:
    """Whether several files or a header say so; of the formats whose header is not asked here loading refuses it."""
    if not isinstance(item["image"], str):
        return len(item["image"]) > 1
    if has_suffix(path, NIBABEL_SUFFIXES):
        try:
            return sum(size > 1 for size in open_volume(str(path)).shape) > 2
        except Exception:  # it fails when it is loaded, with its reason
            return False
    return path.is_dir()  # of one series


def _name_parts(item: Item) -> list[str]:
    """An item's own name, behind what is put before it where that is not unique: of a series never the user's path."""
    if "series" in item:
        return [item["series"], item["name"]]
    path = first_file(item).absolute()
    parents = [safe_name(part) for part in path.parts[1:-1] if part != "img"]
    return [*parents, safe_name(str(item["name"])) if item.get("name") else scan_stem(path)]
