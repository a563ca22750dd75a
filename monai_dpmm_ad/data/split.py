# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which normal scans are fitted, and which are held out to validate and calibrate on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from monai_dpmm_ad.data.datalist import resolve_datalist
from monai_dpmm_ad.data.subjects import split_by_subject
from monai_dpmm_ad.errors import ScanError

__all__ = ["Split", "split_scans"]


@dataclass(frozen=True)
class Split:
    """Normal scans to fit, and normal scans to validate and calibrate on.

    Args:
        train: datalist items.
        held_out: datalist items; the fitted ones again where there was nothing to hold out.
        is_held_out: whether the two are disjoint.
    """

    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    is_held_out: bool


def split_scans(
    paths: str | Sequence[str],
    validation_paths: str | Sequence[str] | None,
    fraction: float,
    seed: int,
    keep: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = list,
) -> Split:
    """Find the scans to fit and those to hold out: as the data say, else split by subject, never by slice.

    Args:
        paths: where the normal scans are.
        validation_paths: where held-out normal scans are; None takes the data's own validation section, or splits.
        fraction: share of the subjects that is held out where the data have no validation section.
        seed: of that split.
        keep: chooses among the items that were found.

    Returns:
        The split. A single subject cannot be split: it is validated on itself, with a warning.
    """
    train = keep(_normal(resolve_datalist(paths, section="training")))
    fitted = {str(item["image"]) for item in train}
    # The data need not have a validation section, but where the user names held-out scans they must be there.
    failures: list[ScanError] | None = None if validation_paths else []
    candidates = keep(_normal(resolve_datalist(validation_paths or paths, section="validation", failures=failures)))
    held_out = [item for item in candidates if str(item["image"]) not in fitted]
    if held_out:
        return Split(train, held_out, True)
    train, held_out = split_by_subject(train, fraction, seed)
    if held_out:
        return Split(train, held_out, True)
    warnings.warn(
        "there is one subject only, so thresholds are calibrated on the scans that were fitted and are too low; "
        "give held-out healthy scans with --held-out",
        stacklevel=2,
    )
    return Split(train, train, False)


def _normal(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if not item.get("abnormal")]
