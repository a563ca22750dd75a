# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which scans are the two visits of one person."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monai_dpmm_ad.data.paths import safe_name, unique_names
from monai_dpmm_ad.data.subjects import first_file, name_subjects
from monai_dpmm_ad.data.tables import read_table
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError

__all__ = ["Visits", "check_same_person", "name_pairs", "pair_visits", "read_visit_table"]

_BIDS = re.compile(r"sub-[a-zA-Z0-9]+(?=[_.])")
_COLUMNS = ("before", "after")


@dataclass(frozen=True)
class Visits:
    """Two visits of one person.

    Args:
        name: what outputs are called.
        before: the first, an item of a datalist.
        after: the second.
    """

    name: str
    before: Item
    after: Item


def pair_visits(before: Sequence[Item], after: Sequence[Item]) -> tuple[list[Visits], list[ScanError]]:
    """Pair scans by their subject; one scan on either side is a pair, whatever their names.

    Args:
        before: first visits.
        after: second visits.

    Returns:
        Pairs, and whose partner is missing.

    Raises:
        ScanError: a scan whose subject nobody says, or several of one subject.
    """
    if len(before) == len(after) == 1:
        return name_pairs([Visits("", before[0], after[0])]), []
    sides = [_by_subject(items) for items in (before, after)]
    pairs = [
        Visits(_shown(subject) or subject, item, sides[1][subject])
        for subject, item in sides[0].items()
        if subject in sides[1]
    ]
    alone = [
        ScanError(first_file(item), f"has no {other} visit of the same subject, {_shown(subject)}")
        for (side, other), others in zip(((sides[0], "second"), (sides[1], "first")), reversed(sides), strict=True)
        for subject, item in side.items()
        if subject not in others
    ]
    names = unique_names([(safe_name(pair.name),) for pair in pairs])
    return [Visits(name, pair.before, pair.after) for name, pair in zip(names, pairs, strict=True)], alone


def name_pairs(pairs: Sequence[Visits]) -> list[Visits]:
    """Name pairs that have no name by their subject, else by their first visit."""
    whose = name_subjects([pair.before for pair in pairs])
    return [
        replace(pair, name=pair.name or _shown(who) or str(pair.before["name"]))
        for pair, who in zip(pairs, whose, strict=True)
    ]


def read_visit_table(path: str | os.PathLike[str]) -> list[tuple[str | None, str, str]]:
    """Read a table of pairs: columns ``before`` and ``after``, paths relative to it; ``name``, made fit for files.

    Args:
        path: of the table, see :func:`~monai_dpmm_ad.data.tables.read_table`.

    Returns:
        Name where there is one, first and second visit of each row.

    Raises:
        ScanError: naming the table, when it is none.
    """
    table = Path(path)
    rows, columns = read_table(table, "visits", (*_COLUMNS, "name"))
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise ScanError(table, f"lacks the column {' and '.join(missing)}; it has {', '.join(columns) or 'none'}")
    pairs = []
    for number, row in enumerate(rows, 2):
        paths = []
        for column in _COLUMNS:
            if not (cell := (row[column] or "").strip()):
                raise ScanError(table, f"has no {column} in line {number}")
            paths.append(str((table.absolute().parent / cell).resolve()))
        name = (row.get("name") or "").strip()
        pairs.append((safe_name(name) if name else None, paths[0], paths[1]))
    if not pairs:
        raise ScanError(table, "lists no visits")
    return pairs


def check_same_person(visits: Visits) -> None:
    """Refuse two visits of different people: by ``PatientID``, ``subject`` in a datalist, or files named as in BIDS.

    Raises:
        ScanError: naming the second visit.
    """
    items = (visits.before, visits.after)
    one, two = (item.get("subject") for item in items)
    if one is None and two is None:
        one, two = (match and match[0] for match in (_BIDS.match(first_file(item).name) for item in items))
    # A series without a patient is known by its study, which is another at each visit.
    if one is None or two is None or one == two or any(str(name).startswith("study ") for name in (one, two)):
        return
    raise ScanError(
        first_file(visits.after),
        f"is of another person, {two}, than the first visit {first_file(visits.before)}, {one}",
    )


def _by_subject(items: Sequence[Item]) -> dict[str, Item]:
    subjects = name_subjects(items)
    for item, subject in zip(items, subjects, strict=True):
        if subject is None:
            raise ScanError(first_file(item), "does not say whose it is: name subjects as in sub-01, or give a table")
    several = [subject for subject, count in Counter(subjects).items() if count > 1]
    if several:
        found = [str(first_file(item)) for item, subject in zip(items, subjects, strict=True) if subject == several[0]]
        raise ScanError(
            found[1],
            f"is of the same subject and visit as {found[0]}: choose one with --suffix or --pattern, or name pairs "
            "in a --table",
        )
    return {str(subject): item for item, subject in zip(items, subjects, strict=True)}


def _shown(subject: str | None) -> str | None:
    """A subject's name without where it was found."""
    return None if subject is None else safe_name(subject.removeprefix("subject:").removeprefix("patient "))
