# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a table says of the people whose scans are fitted or judged: their age, sex and site."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_dpmm_ad.data.bids import find_root, read_entities
from monai_dpmm_ad.data.dicom_series import is_single_slice
from monai_dpmm_ad.data.paths import PICTURE_SUFFIXES, has_suffix, scan_stem
from monai_dpmm_ad.data.people import (
    COVARIATES,
    check_person,
    find_group,
    find_thirds,
    name_groups,
    read_value,
    require_columns,
)
from monai_dpmm_ad.data.sites import MOST_SITES, find_site, list_sites
from monai_dpmm_ad.data.split import Split
from monai_dpmm_ad.data.subjects import first_file, name_subject
from monai_dpmm_ad.data.tables import read_table
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError

__all__ = [
    "PARTICIPANTS",
    "add_covariates",
    "add_split_covariates",
    "choose_of_sites",
    "name_sites",
    "read_covariates",
    "read_person",
]

#: The table of a BIDS data set.
PARTICIPANTS = "participants.tsv"
_LEAST_GROUP = 2
#: Scans of a site that its offset is learnt from, at most: each is mapped once more.
_PER_SITE = 10
_NAMES = ("name", "participant_id")


def add_covariates(
    items: Sequence[Item],
    table: str | os.PathLike[str] | None,
    participants: bool = False,
    needed: Iterable[str] | None = None,
) -> list[Item]:
    """Give every item what a table says of its person, as ``covariates``: JSON text, which loading leaves alone.

    A row belongs to a scan by the scan's name or that of its file, or by its person: its BIDS participant, ``subject``,
    ``PatientID``, or the part of its path that names one.

    Args:
        items: a datalist.
        table: see :func:`read_covariates`; None changes nothing.
        participants: take the table ``participants.tsv`` of the BIDS data set that each scan lies in.
        needed: the columns that must be there; none for a bundle that knows no covariates, None for a fit, which takes
            what there is.

    Raises:
        ScanError: a table without a needed column or without one of the scans, or that says two things of one.
        ValueError: two tables, or a table for a bundle that has no use for it.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = table.write_text("name,age,sex\\na,71,F\\n")
        >>> add_covariates([{"image": "a.nii.gz", "name": "a"}], table)[0]["covariates"]
        '{"age": 71.0, "sex": "F"}'
    """
    if table is None and not participants:
        return list(items)
    if table is not None and participants:
        raise ValueError("`covariates` must be left out where `participants` is asked for. Choose one of the tables.")
    wanted = None if needed is None else tuple(needed)
    if wanted == ():
        raise ValueError(
            "`covariates` must be left out of a bundle that was fitted without, got a table. Fit with --covariates."
        )
    tables: dict[Path, _People] = {}
    told = []
    for item in items:
        path = Path(table) if table is not None else _find_participants(item)
        if path not in tables:
            tables[path] = _People(path, wanted)
        told.append({**item, "covariates": json.dumps(tables[path].find(item))})
    return told


def add_split_covariates(
    split: Split,
    table: str | os.PathLike[str] | None,
    participants: bool = False,
    group_by: str = "none",
    known: bool = False,
) -> Split:
    """Give the scans of a fit what a table says, see :func:`add_covariates`; check groups and sites before long work.

    A site that all fitted scans have tells nobody apart: it is left out, and the split's note says so.

    Args:
        split: of the fit.
        table: see there.
        participants: see there.
        group_by: ``age``, ``sex``, ``site`` or ``none``: by what the held-out scans are calibrated apart.
        known: what tells people apart is known already, of the bundle that is updated or of all sequences' scans.

    Raises:
        ValueError: a table that tells nobody apart or comes with pictures, a group with less than two held-out scans,
            or too many sites.

    Example:
        >>> from monai_dpmm_ad.data.split import Split
        >>> split = Split([{"image": "a.nii.gz"}], [{"image": "b.nii.gz"}], True)
        >>> add_split_covariates(split, None) == split
        True
    """
    train, held_out = (add_covariates(items, table, participants) for items in (split.train, split.held_out))
    asked = table is not None or participants
    if asked and (pictures := [item for item in train if _is_picture(item)]):
        raise ValueError(
            f"`covariates` must be left out of a fit of pictures, whose maps are not judged by place, got "
            f"{first_file(pictures[0])}. Leave it out."
        )
    people = [read_person(item) for item in train]
    sites = list_sites(people)
    note = split.note
    if not known and asked:
        require_columns(people)
        if not sites and (only := {person["site"] for person in people if person.get("site") is not None}):
            note = "; ".join(filter(None, [note, f"all fitted scans are of one site, {min(only)}: it is left out"]))
    if len(sites) > MOST_SITES:
        raise ValueError(
            f"`covariates` must name {MOST_SITES} sites at most, got {len(sites)}. Give small sites one name, or leave "
            "the column `site` out."
        )
    if group_by in ("age", "sex") and not any(person.get(group_by) is not None for person in people):
        raise ValueError(f"`group_by` must be known of fitted people, got {group_by}, which the table has of none.")
    if group_by == "site" and not sites:
        raise ValueError("`group_by` site must have fitted scans of two sites or more, got fewer. Leave it out.")
    if group_by != "none":
        edges = find_thirds(people)
        groups = [find_group(group_by, read_person(item), edges, sites) for item in held_out]
        counts = Counter(group for group in groups if group is not None)
        small = [name for name in name_groups(group_by, edges, sites) if counts[name] < _LEAST_GROUP]
        if small:
            raise ValueError(
                f"`group_by` must make groups of {_LEAST_GROUP} held-out scans or more, got {counts[small[0]]} of the "
                f"group {small[0]}. Hold out more healthy scans, or leave it out."
            )
    return replace(split, train=train, held_out=held_out, note=note)


def _is_picture(item: Item) -> bool:
    return has_suffix(first_file(item), PICTURE_SUFFIXES) or is_single_slice(item["image"])


def read_person(item: Mapping[Any, Any]) -> dict[str, Any]:
    """What :func:`add_covariates` wrote into an item, or a datalist has there, or the metadata of its image.

    Raises:
        ValueError: see :func:`~monai_dpmm_ad.data.people.check_person`.
    """
    return check_person(item.get("covariates"))


def name_sites(items: Iterable[Item]) -> tuple[str, ...]:
    """The sites that a fit tells apart, see :func:`list_sites`.

    Example:
        >>> name_sites([{"covariates": {"site": "south"}}, {"covariates": {"site": "north"}}])
        ('north', 'south')
    """
    return list_sites(read_person(item) for item in items)


def choose_of_sites(items: Sequence[Item]) -> list[Item]:
    """Choose the fitted scans of which the offset of each site is learnt: ten of a site at most, evenly by name.

    Example:
        >>> items = [{"name": f"{n:02}", "covariates": {"site": "ab"[n % 2]}} for n in range(30)]
        >>> [item["name"] for item in choose_of_sites(items)][:4]
        ['00', '04', '06', '10']
    """
    chosen = []
    names = name_sites(items)
    for number in range(len(names)):
        listed = [item for item in items if find_site(read_person(item).get("site"), names) == number]
        listed.sort(key=lambda item: str(item["name"]))
        places = np.unique(np.linspace(0, len(listed) - 1, _PER_SITE).round().astype(int))
        chosen += [listed[place] for place in places]
    return chosen


def read_covariates(
    path: str | os.PathLike[str], needed: Sequence[str] | None = None
) -> dict[str, dict[str, float | str | None]]:
    """Read a table of people: ``name`` or ``participant_id``, and ``age``, ``sex``, ``site``.

    Args:
        path: of the table, see :func:`~monai_dpmm_ad.data.tables.read_table`.
        needed: the columns that must be there; None asks for one at least.

    Returns:
        Name → what is known: ``age`` in years, ``sex`` M or F, the ``site``'s name, None where the table does not say.

    Raises:
        ScanError: naming the table, when it is none, lacks a column, has a column or a person twice, or a value that
            means nothing.
    """
    table = Path(path)
    lines, columns = read_table(table, "people", (*_NAMES, *COVARIATES), _NAMES)
    has = ", ".join(columns) or "none"
    key = next((name for name in _NAMES if name in columns), None)
    if key is None:
        raise ScanError(table, f"lacks the column {' or '.join(_NAMES)}; it has {has}")
    missing = [name for name in needed or () if name not in columns]
    if missing or not set(COVARIATES) & set(columns):
        raise ScanError(table, f"lacks the column {' and '.join(missing) or ' or '.join(COVARIATES)}; it has {has}")
    people: dict[str, dict[str, float | str | None]] = {}
    for number, line in enumerate(lines, 2):
        name = (line[key] or "").strip()
        if not name or name in people or f"sub-{name}" in people or name.removeprefix("sub-") in people:
            raise ScanError(table, f"has {'nobody' if not name else f'{name} again'} in line {number}")
        people[name] = {
            column: _read_value(table, number, column, line[column]) for column in COVARIATES if column in columns
        }
    return people


def _read_value(table: Path, number: int, column: str, text: str | None) -> float | str | None:
    try:
        return read_value(column, text)
    except ValueError as error:
        raise ScanError(table, f"has the {column} '{text}' in line {number}, where {error} is expected") from error


def _find_participants(item: Item) -> Path:
    root = find_root(first_file(item))
    if root is None:
        raise ScanError(first_file(item), f"lies in no BIDS data set, so there is no {PARTICIPANTS}")
    return root / PARTICIPANTS


class _People:
    """A table of people, to be looked up by scans."""

    def __init__(self, path: Path, needed: Sequence[str] | None) -> None:
        self.path, self.rows = path, read_covariates(path, needed)
        self.by_person: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.rows:
            self.by_person[_person_key(name)].append(name)

    def find(self, item: Item) -> dict[str, float | str | None]:
        """What the table says of a scan.

        Raises:
            ScanError: nothing, or two things: ``sub-02/01.nii.gz`` may be 01 by its name and 02 by its person.
        """
        path = first_file(item)
        name, stem = str(item.get("name")), scan_stem(path)
        if name in self.rows and name != stem:  # nothing else is called so
            return self.rows[name]
        own = [path.name, stem]
        person = [(read_entities(path) or {}).get("sub"), item.get("subject"), name_subject({"image": str(path)})]
        found = [word for word in own if word in self.rows]
        found += [row for word in person if word is not None for row in self.by_person.get(_person_key(word), ())]
        if not found:
            raise ScanError(self.path, f"has no row for the scan {item.get('name') or stem}")
        other = next((name for name in found if self.rows[name] != self.rows[found[0]]), None)
        if other is not None:
            raise ScanError(self.path, f"has two rows for the scan {path}, {found[0]} and {other}, that differ")
        return self.rows[found[0]]


def _person_key(name: str) -> str:
    """A person's name, however it is written; of a series what the reader puts before it is left out."""
    return str(name).removeprefix("patient ").lower().removeprefix("sub-")
