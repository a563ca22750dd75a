# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is new, grown, shrunk and gone between two visits: regions of their change, measured, judged and written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.calibration.discovery import q_values
from monai_dpmm_ad.handlers.regions import Region, compute_regions
from monai_dpmm_ad.normative import RegionCalibration, keep_regions, measure_regions
from monai_dpmm_ad.normative.change import CHANGE_THRESHOLD, Change
from monai_dpmm_ad.utils.files import write_csv, write_json

__all__ = ["KINDS", "LEAST_CHANGE", "ChangedRegion", "change_statistics", "find_changes", "write_changes"]

#: In the order of the values of a mask of changes, from 1.
KINDS = ("new", "grown", "shrunk", "gone")
#: What the peak of a change must exceed where no healthy pair says it.
LEAST_CHANGE = 10.0

_COLUMNS = ("p_value", "q_value", "size", "unit", "num_voxels", "peak_score", "mean_score", "anatomy", "in_range")


@dataclass(frozen=True)
class ChangedRegion:
    """A connected region in which a person became more or less unusual.

    Args:
        kind: one of `KINDS`. ``new`` and ``grown`` are more unusual than before, ``shrunk`` and ``gone`` less;
            ``new`` touches nothing that is flagged in the first visit, ``gone`` nothing in the second.
        region: where, in the first visit's scanner coordinates; voxels are those of the space half-way.
    """

    kind: str
    region: Region


def change_statistics(change: NDArray[np.float32]) -> NDArray[np.float64]:
    """Peaks of all regions of a change ``(X, Y, Z)`` of either sign, ``(m,)``: what healthy pairs are calibrated by."""
    return np.concatenate([measure_regions(sign * change, CHANGE_THRESHOLD)[1] for sign in (1, -1)])


def find_changes(
    change: Change,
    calibration: RegionCalibration | None = None,
    false_regions: float = 1.0,
    min_size: float = 0.0,
    in_range: bool | None = None,
) -> tuple[list[ChangedRegion], NDArray[np.uint8]]:
    """Find what changed.

    Args:
        change: of two visits.
        calibration: of the changes of healthy pairs; gives p-values and the least peak.
        false_regions: expected number of changed regions of a healthy pair.
        min_size: smaller regions are left out, mm³.
        in_range: False where a visit lies outside of what was fitted, so that no p-value is promised.

    Returns:
        The regions, numbered by rising p-value and falling peak, and a mask in the space half-way: 0, or 1 + the index
        of the kind.
    """
    known = calibration is not None and calibration.fitted
    least = calibration.least_statistic(false_regions) if calibration is not None and known else LEAST_CHANGE
    affine = change.pair.to_before @ change.pair.lattice.affine
    found: list[ChangedRegion] = []
    mask = np.zeros(change.change.shape, np.uint8)
    for sign, kinds, flagged in ((1, ("new", "grown"), change.masks[0]), (-1, ("gone", "shrunk"), change.masks[1])):
        size = np.maximum(sign * change.change, 0)
        kept = keep_regions(size, CHANGE_THRESHOLD, least)
        judge = calibration if known else None
        listed, labels, box = compute_regions(kept, size, affine, min_size, judge, begin=CHANGE_THRESHOLD)
        near = ndimage.binary_dilation(flagged, np.ones((3, 3, 3)))[box]
        touched = np.unique(labels[near])
        for region in listed:
            kind = kinds[region.index in touched]
            found.append(ChangedRegion(kind, region))
            mask[box][labels == region.index] = 1 + KINDS.index(kind)
    found.sort(key=lambda one: (one.region.p_value or 0.0, -one.region.peak_score))
    numbered = [replace(one, region=replace(one.region, index=i + 1, in_range=in_range)) for i, one in enumerate(found)]
    return numbered, mask


def write_changes(
    path_csv: str | os.PathLike[str], path_json: str | os.PathLike[str], changes: Mapping[str, Sequence[ChangedRegion]]
) -> dict[str, list[ChangedRegion]]:
    """Write the changed regions of all pairs as CSV, one row a region, and as JSON.

    Returns:
        The regions with their q-values among all of them but those of a visit outside of what was fitted.
    """
    regions = [one.region for listed in changes.values() for one in listed]
    values = iter(q_values([None if region.in_range is False else region.p_value for region in regions]))
    judged = {
        name: [replace(one, region=replace(one.region, q_value=next(values))) for one in listed]
        for name, listed in changes.items()
    }
    rows = []
    for name, listed in judged.items():
        for one in listed:
            content = asdict(one.region)
            rows.append([name, one.region.index, one.kind, *(content[key] for key in _COLUMNS), *one.region.centroid])
    axes = [f"centroid_{axis}" for axis in range(3)]
    write_csv(path_csv, ["name", "region", "kind", *_COLUMNS, *axes], rows)
    write_json(path_json, {name: [asdict(one) for one in listed] for name, listed in judged.items()})
    return judged
