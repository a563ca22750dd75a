# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which person a scan shows, and splits that keep a person's scans together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_dpmm_ad.data.types import Item

__all__ = ["first_file", "name_subject", "split_by_subject"]

# BIDS's sub-XX, and the common words for a person followed by a number: patient07, case_12, subject-3.
_SUBJECT = re.compile(
    r"(?:^|[_.\-])(sub-[a-z0-9]+|(?:subject|subj|sub|patient|pat|pid|case|volunteer)[_\-]?\d+)", re.IGNORECASE
)


def split_by_subject(items: Sequence[Item], fraction: float, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Hold out a share of the subjects, never some of a subject's scans or slices.

    A subject is what an item's ``subject`` says (of a DICOM series the patient or the study); else the part of its path
    that names a person (``sub-01``, ``patient07``, ``case_3``), the innermost one; else the file itself.

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
    subjects = [name_subject(item) or str(first_file(item)) for item in items]
    unique = sorted(set(subjects))
    count = min(max(round(fraction * len(unique)), 1), len(unique) - 1) if fraction and unique else 0
    order = np.random.default_rng(seed).permutation(len(unique))
    held_out = {unique[index] for index in order[:count]}
    train = [item for item, subject in zip(items, subjects, strict=True) if subject not in held_out]
    rest = [item for item, subject in zip(items, subjects, strict=True) if subject in held_out]
    return train, rest


def name_subject(item: Item) -> str | None:
    """Return the subject that an item's ``subject`` or path names; None where nothing does."""
    if item.get("subject") is not None:
        return f"subject:{item['subject']}"
    for part in reversed(first_file(item).parts):
        match = _SUBJECT.search(part)
        if match:
            return match.group(1).lower()
    return None


def first_file(item: Item) -> Path:
    """Return an item's image, or the first file of its DICOM series."""
    image = item["image"]
    return Path(image if isinstance(image, str) else image[0])
