# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Bring what was found to the sequences of a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.datalist import Found, find_scans
from monai_dpmm_ad.data.nnunet import find_image_folders
from monai_dpmm_ad.data.sequences import arrange_sequences, check_names, list_sequences, take_sequence
from monai_dpmm_ad.data.split import Split
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError, unknown_option

__all__ = ["choose_sequences", "find_sequences", "match_sequences"]


def find_sequences(
    paths: Sequence[str | os.PathLike[str]], asked_for: Sequence[str] | None, **choice: Any
) -> tuple[str, ...] | None:
    """Find out which sequences a fit is of.

    Args:
        paths: where the scans are.
        asked_for: names that the user gave; None takes all that the scans have.
        choice: as for :func:`~monai_dpmm_ad.data.find_scans`; several suffixes are sequences.

    Returns:
        Their names in order; None for scans of single images.

    Raises:
        ValueError: a name that no scan has, or names that cannot be fitted.
    """
    suffix = choice.get("suffix") or ()
    several = not isinstance(suffix, str) and len(suffix) > 1
    listed = [Path(path).expanduser() for path in paths]
    if not several:  # of plain folders none has sequences
        listed = [
            path for path in listed if path.suffix.lower() == ".json" or (path.is_dir() and find_image_folders(path))
        ]
    if several and asked_for is None:
        return check_names([word.lstrip("_") for word in suffix])
    there = list_sequences(find_scans(listed, section="training", **choice).items) if listed else []
    if asked_for is None:
        return check_names(there) if len(there) > 1 else None
    for name in asked_for:
        if there and name not in there:
            raise unknown_option("sequences", name, there)
    return check_names(asked_for)


def match_sequences(found: Found, names: Sequence[str] | None) -> Found:
    """Bring the scans of a run to the sequences of its bundle.

    Args:
        found: gets the scans that cannot be brought there as failures.
        names: of the bundle's sequences; None for a bundle of single images.

    Example:
        >>> from monai_dpmm_ad import find_scans
        >>> part = {"T1": {"image": "a_T1.nii.gz"}}
        >>> found = match_sequences(Found([{"image": "a_T1.nii.gz", "name": "a", "sequences": part}]), ["T1", "FLAIR"])
        >>> found.items[0]["sequences"]
        {'T1': {'image': 'a_T1.nii.gz'}, 'FLAIR': None}
    """
    items: list[Item] = []
    for item in found.items:
        try:
            items.append(arrange_sequences(item, names))
        except ScanError as error:
            found.failures.append(error)
    found.items = items
    return found


def choose_sequences(split: Split, names: Sequence[str] | None, one: str | None = None) -> Split:
    """Bring the scans of a fit to its sequences.

    Args:
        split: of all scans: a person's sequences are on the same side.
        names: of the sequences; None for scans of single images.
        one: of those the one to fit, on the grid of the first sequence that a scan has; None leaves the scans whole.

    Raises:
        ScanError: no scan has the sequence, or several where single images are fitted.

    Example:
        >>> part = {"T1": {"image": "a_T1.nii.gz"}, "FLAIR": {"image": "a_FLAIR.nii.gz"}}
        >>> scans = [{"image": "a_T1.nii.gz", "name": "a", "sequences": part}]
        >>> choose_sequences(Split(scans, scans, False), ["T1", "FLAIR"], "FLAIR").train[0]["image"]
        'a_FLAIR.nii.gz'
    """
    train, held_out = ([_arrange(split, item, names, one) for item in items] for items in (split.train, split.held_out))
    fitted = [item for item in train if item is not None]
    others = [item for item in held_out if item is not None]
    if not fitted:
        if split.found.failures:
            raise split.found.failures[0]
        raise ScanError("--images", f"hold no scan with the sequence {one}")
    if not others:
        return replace(split, train=fitted, held_out=fitted, is_held_out=False)
    return replace(split, train=fitted, held_out=others)


def _arrange(split: Split, item: Item, names: Sequence[str] | None, one: str | None) -> Item | None:
    try:
        arranged = arrange_sequences(item, names)
    except ScanError as error:
        if names is None:
            raise
        if str(error) not in map(str, split.found.failures):
            split.found.failures.append(error)
        return None
    return arranged if one is None else take_sequence(arranged, one)
