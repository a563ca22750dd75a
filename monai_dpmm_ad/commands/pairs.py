# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which two visits are compared, of paths, a table or the sessions of a BIDS data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.commands.checks import PathLike
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.dataset import ScanFailure
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.data.visits import Visits, name_pairs, pair_visits, read_visit_table
from monai_dpmm_ad.errors import ScanError

__all__ = ["find_pairs"]


def find_pairs(
    before: PathLike | Sequence[PathLike] | None,
    after: PathLike | Sequence[PathLike] | None,
    table: PathLike | None,
    session: Sequence[str] | None,
    choice: Mapping[str, Any],
) -> tuple[list[Visits], list[ScanFailure]]:
    """Find the pairs, and whose partner is missing.

    Args:
        before: first visits.
        after: second visits; with sessions those of the same paths where it is None.
        table: pairs, in place of both.
        session: of the first and of the second visits.
        choice: as :func:`~monai_dpmm_ad.data.resolve_datalist` takes it.

    Raises:
        ValueError: neither a table nor both visits, or other than two sessions.
        ScanError: what cannot be paired.
    """
    if session is not None:
        after = before if after is None else after
    if (table is None) == (before is None or after is None) or (table is not None and (before or after or session)):
        raise ValueError(
            "`before` and `after` must be given both, or `table` alone. Name two scans, folders, or a table."
        )
    if table is None:
        pairs, alone = pair_visits(*_find_sides(before, after, session, choice))
        return pairs, [ScanFailure(Path(error.path).name, error.path, error.reason) for error in alone]
    pairs, failures = [], []
    for name, *paths in read_visit_table(table):
        try:
            pairs.append(Visits(name or "", *(_find_one(path, choice) for path in paths)))
        except ScanError as error:
            failures.append(ScanFailure(name or Path(error.path).name, error.path, error.reason))
    pairs = name_pairs(pairs)
    names = [pair.name for pair in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ScanError(table, f"has several pairs of the name {twice}; give each its own in a column name")
    return pairs, failures


def _find_one(path: str, choice: Mapping[str, Any]) -> Item:
    found = resolve_datalist(path, **choice)
    if len(found) != 1:
        raise ScanError(path, f"holds {len(found)} scans; the table has to name one of them")
    return found[0]


def _find_sides(
    before: PathLike | Sequence[PathLike] | None,
    after: PathLike | Sequence[PathLike] | None,
    session: Sequence[str] | None,
    choice: Mapping[str, Any],
) -> list[list[Item]]:
    if session is not None and (len(session) != 2 or session[0] == session[1]):
        raise ValueError(f"`session` must name two sessions, the first and the second visit's, got {list(session)}.")
    sides = []
    for number, paths in enumerate((before, after)):
        one: dict[str, Any] = {} if session is None else {"session": session[number]}
        sides.append(resolve_datalist(paths or (), **choice, **one))
        if session is not None and not sides[-1]:
            raise ScanError("--session", f"names {session[number]}, of which there is no scan")
    return sides
