# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which person a scan shows, and splits that keep a person's scans together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from monai_dpmm_ad.data.types import Item

__all__ = ["first_file", "name_new_subjects", "name_subject", "name_subjects", "split_by_subject"]

# BIDS's sub-XX, and the common words for a person followed by a number: patient07, case_12, subject-3.
_SUBJECT = re.compile(
    r"(?:^|[_.\-])(sub-[a-z0-9]+|(?:subject|subj|sub|patient|pat|pid|case|volunteer)[_\-]?\d+)", re.IGNORECASE
)
_BIDS = re.compile(r"sub-[a-z]*[0-9][a-z0-9]*", re.IGNORECASE)


def split_by_subject(
    items: Sequence[Item], fraction: float, seed: int = 0, among: Sequence[Item] = ()
) -> tuple[list[Item], list[Item]]:
    """Hold out a share of the subjects, never some of a subject's scans or slices.

    A subject is what an item's ``subject`` says (of a DICOM series the patient or the study); else the part of its path
    that names a person (``sub-01``, ``patient07``, ``case_3``), see :func:`name_subjects`; else the file itself.

    Args:
        items: a datalist.
        fraction: the share of subjects to hold out, in [0, 1): rounded, but at least one and never all.
        seed: the same seed and subjects give the same split, in whatever order the items come.
        among: the scans that were found with them.

    Returns:
        The items to train on and the items held out. The latter is empty when ``fraction`` is 0 or there is only one
        subject.

    Raises:
        ValueError: when ``fraction`` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"`fraction` must be at least 0 and below 1, got {fraction}.")
    names = name_subjects(items, among)
    subjects = [name or str(first_file(item)) for item, name in zip(items, names, strict=True)]
    unique = sorted(set(subjects))
    count = min(max(round(fraction * len(unique)), 1), len(unique) - 1) if fraction and unique else 0
    order = np.random.default_rng(seed).permutation(len(unique))
    held_out = {unique[index] for index in order[:count]}
    train = [item for item, subject in zip(items, subjects, strict=True) if subject not in held_out]
    rest = [item for item, subject in zip(items, subjects, strict=True) if subject in held_out]
    return train, rest


def name_subjects(items: Sequence[Item], among: Sequence[Item] = ()) -> list[str | None]:
    """Return the subject that each item's ``subject`` or path names; None where nothing does.

    Of a path the innermost part counts that names a person. A folder in which all scans lie says nothing of any, unless
    it is one of BIDS, ``sub-01``, or its scans are called alike, as sessions are: ``patient07/1/T1.nii.gz``.

    Args:
        items: of a datalist.
        among: the scans that were found with them, if they are not all.

    Example:
        >>> name_subjects([{"image": "/case_2024/a.nii.gz"}, {"image": "/case_2024/sub-01_T1w.nii.gz"}])
        [None, 'sub-01']
    """
    files = {first_file(item).absolute() for item in (*items, *among)}
    levels = zip(*(file.parts[:-1] for file in files), strict=False)
    shared = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)] if len(files) > 1 else []
    if shared and len({file.name for file in files}) == 1:
        shared.pop()
    silent = len(list(takewhile(lambda part: not _BIDS.fullmatch(part), shared)))
    return [name_subject(item, silent) for item in items]


def name_new_subjects(items: Sequence[Item], among: Sequence[Item], earlier: Sequence[Item]) -> dict[Path, str | None]:
    """Name the subjects of new scans and of those that a bundle has seen, each fit's scans as they were found.

    A folder in which all new scans lie names somebody whom an earlier fit knows.

    Args:
        items: new scans.
        among: the scans that were found with them.
        earlier: scans with ``fit``, as a bundle's provenance has them.

    Returns:
        First file → subject, None where nothing names one.
    """
    whose: dict[Path, str | None] = {}
    for number in {scan["fit"] for scan in earlier}:
        scans = [scan for scan in earlier if scan["fit"] == number]
        whose |= zip(map(first_file, scans), name_subjects(scans), strict=True)
    known = set(whose.values())
    for item, who in zip(items, name_subjects(items, among), strict=True):
        alone = name_subject(item)
        whose[first_file(item)] = who or (alone if alone in known else None)
    return whose


def name_subject(item: Item, shared: int = 0) -> str | None:
    """As :func:`name_subjects` for one scan.

    Args:
        item: of a datalist.
        shared: number of outermost parts of its path that say nothing.
    """
    if item.get("subject") is not None:
        return f"subject:{item['subject']}"
    path = first_file(item).absolute() if shared else first_file(item)
    for part in reversed(path.parts[shared:]):
        match = _SUBJECT.search(part)
        if match:
            return match.group(1).lower()
    return None


def first_file(item: Item) -> Path:
    """Return an item's image, or the first file of its DICOM series."""
    image = item["image"]
    return Path(image if isinstance(image, str) else image[0])
