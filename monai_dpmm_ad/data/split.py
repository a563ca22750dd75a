# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which normal scans are fitted, and which are held out to validate and calibrate on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai_dpmm_ad.data.datalist import Found, find_scans, require_scans
from monai_dpmm_ad.data.gate import LeftOut
from monai_dpmm_ad.data.subjects import first_file, name_subjects, split_by_subject

__all__ = ["Split", "split_scans", "warn_of_people"]


@dataclass(frozen=True)
class Split:
    """Normal scans to fit, and normal scans to validate and calibrate on.

    Args:
        train: datalist items.
        held_out: datalist items; the fitted ones again where there was nothing to hold out.
        is_held_out: whether the two are disjoint.
        found: what else the paths led to.
        note: what a user should know of the split, None if nothing.
    """

    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    is_held_out: bool
    found: Found = field(default_factory=Found)
    note: str | None = None


def split_scans(
    paths: str | Sequence[str],
    validation_paths: str | Sequence[str] | None,
    fraction: float,
    seed: int,
    keep: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = list,
    **choice: Any,
) -> Split:
    """Find the scans to fit and those to hold out: as the data say, else split by subject, never by slice.

    Args:
        paths: where the normal scans are.
        validation_paths: where held-out normal scans are; None takes the data's own validation section, or splits.
        fraction: share of the subjects that is held out where the data have no validation section.
        seed: of that split.
        keep: chooses among the items that were found, by what a bundle has seen.
        choice: ``suffix``, ``pattern``, see :func:`~monai_dpmm_ad.data.find_scans`.

    Returns:
        The split. A single subject cannot be split: it is validated on itself, with a warning.

    Raises:
        ScanError: no scan is left to fit, or none of those that were named to be held out.
        ValueError: all scans that were named to be held out are fitted, or ``keep`` leaves none to fit.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "list.json"
        >>> scans = [{"image": f"{who}_{visit}.nii.gz", "subject": who} for who in "abcde" for visit in (1, 2)]
        >>> _ = path.write_text(json.dumps({"training": scans}))
        >>> split = split_scans(str(path), None, fraction=0.2, seed=0)
        >>> len(split.train), len(split.held_out), len({item["subject"] for item in split.held_out})
        (8, 2, 1)
    """
    found = require_scans(_without_abnormal(find_scans(paths, section="training", **choice)))
    train = keep(found.items)
    if not train:
        raise ValueError("`images` must hold scans that the bundle has not seen, got none. Give new healthy scans.")
    fitted = {str(item["image"]) for item in train}
    # The data need not have a validation section, but where the user names held-out scans they must be there.
    others = _without_abnormal(find_scans(validation_paths or paths, section="validation", **choice))
    if validation_paths:
        require_scans(others)
        found.failures += others.failures
        found.left_out += others.left_out
    named = others.items
    twice = [str(item["name"]) for item in named if str(item["image"]) in fitted] if validation_paths else []
    if twice and len(twice) == len(named):
        raise ValueError(
            f"`held_out` must name other scans than `images`, got {', '.join(twice[:3])}{', …' * (len(twice) > 3)} in "
            "both. Take them out of `images`."
        )
    if twice:
        warnings.warn(f"{len(twice)} held-out scans are fitted, so not held out: {', '.join(twice[:3])}", stacklevel=2)
    held_out = [item for item in keep(named) if str(item["image"]) not in fitted]
    people = name_subjects([*train, *held_out])
    fitted_people = {*people[: len(train)]} - {None}
    both = zip(held_out, people[len(train) :], strict=True)
    warn_of_people([item for item, who in both if who in fitted_people])
    if held_out:
        return Split(train, held_out, True, found, _tell_repeats(people[len(train) :]))
    people = name_subjects(train, found.items)
    unknown = people.count(None)
    train, held_out = split_by_subject(train, fraction, seed, found.items)
    if held_out:
        note = (
            f"nothing says whose {unknown} of the {len(train) + len(held_out)} scans are, so each counts as a subject "
            "of its own; where a person has several, name folders sub-01, sub-02, …, or give `subject` in a datalist"
        )
        notes = [note if unknown else None, _tell_repeats(name_subjects(held_out, found.items))]
        return Split(train, held_out, True, found, "; ".join(filter(None, notes)) or None)
    only = f", {people[0].removeprefix('subject:')}" if people[0] and len(set(people)) == 1 else ""
    warnings.warn(
        f"there is one subject only{only}, so thresholds are calibrated on the scans that were fitted and are too low; "
        "give held-out healthy scans with --held-out",
        stacklevel=2,
    )
    return Split(train, train, False, found)


def warn_of_people(items: Sequence[dict[str, Any]]) -> None:
    """Say which held-out scans seem to be of people who are fitted."""
    if both := sorted(str(item["name"]) for item in items):
        warnings.warn(
            f"{len(both)} held-out scans seem to be of people who are fitted, so that thresholds and p-values would be "
            f"too low: {', '.join(both[:3])}; hold out other people",
            stacklevel=3,
        )


def _tell_repeats(people: Sequence[str | None]) -> str | None:
    """Say that held-out scans, by their people, are not of as many: a person's scans tell nearly the same."""
    number = len({*people} - {None}) + people.count(None)
    if number == len(people):
        return None
    return (
        f"the {len(people)} held-out scans are of {number} {'person' if number == 1 else 'people'}, but p-values count "
        "scans: they are promised where each person has one"
    )


def _without_abnormal(found: Found) -> Found:
    """What was found, with abnormal scans left out by their reason."""
    abnormal = [item for item in found.items if item.get("abnormal")]
    reason = "is marked abnormal; only healthy scans are fitted"
    found.left_out += [LeftOut(str(first_file(item)), "abnormal scans", reason) for item in abnormal]
    found.items = [item for item in found.items if not item.get("abnormal")]
    return found
