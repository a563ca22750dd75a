# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The flagged regions of a scan, added up over each label of an atlas."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.handlers.regions import Regions
from monai_dpmm_ad.utils.files import remove_file, write_csv

__all__ = ["AnatomyRow", "sum_by_label", "write_anatomy"]


@dataclass(frozen=True)
class AnatomyRow:
    """One label of an atlas in one scan. A region that lies in several labels counts in each with its part there.

    Args:
        label: number in the atlas.
        anatomy: its name, or its number as text.
        size: of the label in this scan, in ``unit``.
        unit: ``"mm3"`` or ``"pixels"``.
        flagged: of it, what flagged regions fill.
        num_regions: how many regions lie in it, at least in part.
        largest: size of the largest of these parts; 0 where there is none.
        largest_region: the number of that region in ``regions.csv``.
        sum_score: the map summed over the flagged voxels, times their size.
        peak_score: the highest score of a flagged voxel.
        p_value: the least of these regions; of a whole region, also where only a part of it lies here.
        in_range: False where that p-value is not promised, since the scan lies outside of what was fitted.
    """

    label: int
    anatomy: str
    size: float
    unit: str
    flagged: float
    num_regions: int
    largest: float
    largest_region: int | None
    sum_score: float
    peak_score: float | None
    p_value: float | None
    in_range: bool | None = None


def sum_by_label(
    regions: Regions,
    score_map: NDArray[np.floating],
    atlas: NDArray[np.integer],
    names: Mapping[int, str],
    voxel_size: float,
    unit: str,
) -> list[AnatomyRow]:
    """Add up a scan's regions over the labels of an atlas.

    Args:
        regions: as :func:`~monai_dpmm_ad.handlers.regions.compute_regions` gives them.
        score_map: shape of the mask.
        atlas: same shape, 0 where no label is.
        names: label → name.
        voxel_size: mm³ of a voxel; 1 for a picture.
        unit: of that.

    Returns:
        A row for each label that the scan shows, flagged or not: a study needs the zeros.
    """
    counts = np.bincount(atlas.ravel())
    inside, scores = atlas[regions.box], score_map[regions.box]
    where = (regions.labels > 0) & (inside > 0)
    labels, owners, values = inside[where], regions.labels[where], scores[where].astype(np.float64)
    p_values = {region.index: region.p_value for region in regions.listed}
    rows = []
    for label in np.flatnonzero(counts[1:]) + 1:
        here = labels == label
        numbers, parts = np.unique(owners[here], return_counts=True)
        known = [value for number in numbers if (value := p_values[int(number)]) is not None]
        rows.append(
            AnatomyRow(
                label=int(label),
                anatomy=names.get(int(label), str(label)),
                size=float(counts[label] * voxel_size),
                unit=unit,
                flagged=float(here.sum() * voxel_size),
                num_regions=len(numbers),
                largest=float(parts.max() * voxel_size) if len(numbers) else 0.0,
                largest_region=int(numbers[parts.argmax()]) if len(numbers) else None,
                sum_score=float(values[here].sum() * voxel_size),
                peak_score=float(values[here].max()) if len(numbers) else None,
                p_value=min(known, default=None),
                in_range=next((region.in_range for region in regions.listed), None),
            )
        )
    return rows


def write_anatomy(path: str | os.PathLike[str], rows: Mapping[str, Sequence[AnatomyRow]]) -> None:
    """Write ``anatomy.csv``, or remove that of an earlier run where no scan has an atlas.

    Args:
        path: of the table.
        rows: scan name → its labels.
    """
    if not rows:
        remove_file(path)
        return
    columns = [field.name for field in fields(AnatomyRow)]
    table = [[name, *asdict(row).values()] for name, listed in rows.items() for row in listed]
    write_csv(path, ["name", *columns], table)
