# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The table of flagged regions: connected components of a mask, measured, judged and named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.normative import REGION_THRESHOLD, Frame, RegionCalibration
from monai_dpmm_ad.ops.components import Components, iterate_slabs, rank_components
from monai_dpmm_ad.utils.files import write_csv, write_json

__all__ = ["Region", "Regions", "compute_regions", "name_regions", "write_regions"]


@dataclass(frozen=True)
class Region:
    """One connected component, numbered from 1 by rising p-value and falling peak score, then by falling size.

    Scanner coordinates are x, y, z in mm (RAS: x to the right, y to the front, z up); of a 2D image, which has none,
    the indices.

    Args:
        index: number within the scan.
        num_voxels: size in voxels (pixels).
        size: volume in mm³; area in pixels for a 2D image.
        unit: ``"mm3"`` or ``"pixels"``.
        peak_score: highest score, the statistic by which regions of healthy scans are compared.
        mean_score: mean score.
        p_value: chance that the highest region of a healthy scan has such a peak; None without calibration.
        anatomy: name of the atlas's region that holds most of it; None without an atlas, or outside all of them.
        centroid_voxel: mean position in voxel indices.
        centroid: mean position in scanner coordinates.
        centroid_reference: mean position in the fitted cohort's space in mm; None where the scan has no place there.
        peak_voxel: voxel indices of the highest score.
        first: lowest index along each array dimension.
        last: highest index along each array dimension (inclusive).
        q_value: of the p-value among those of all regions of the table; None before the table is whole.
        in_range: False where its scan lies outside of what was fitted: then the p-value is not promised, and there is
            no q-value. None where that is not known.
    """

    index: int
    num_voxels: int
    size: float
    unit: str
    peak_score: float
    mean_score: float
    p_value: float | None
    anatomy: str | None
    centroid_voxel: tuple[float, ...]
    centroid: tuple[float, ...]
    centroid_reference: tuple[float, ...] | None
    peak_voxel: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    q_value: float | None = None
    in_range: bool | None = None


class Regions(NamedTuple):
    """Regions and where they are.

    Args:
        listed: in an order that does not depend on how the array is turned.
        labels: int32, inside ``box``: a region's index where it is, else 0.
        box: one slice per dimension.
    """

    listed: list[Region]
    labels: NDArray[np.int32]
    box: tuple[slice, ...]


def compute_regions(
    mask: NDArray[np.generic],
    score_map: NDArray[np.floating],
    affine: NDArray[np.floating] | None = None,
    min_size: float = 0.0,
    calibration: RegionCalibration | None = None,
    frame: Frame | None = None,
) -> Regions:
    """Measure the connected components of a mask (neighbours share a face, an edge or a corner).

    Args:
        mask: (H, W) or (H, W, D), nonzero = flagged.
        score_map: same shape.
        affine: (4, 4), from voxel indices to scanner RAS coordinates in mm; needed in 3D.
        min_size: smaller components are left out, in mm³; in pixels for a 2D image.
        calibration: gives p-values, if it has seen scans.
        frame: gives the place in the fitted cohort's space.

    Raises:
        ValueError: shapes differ, not 2D or 3D, or no invertible affine for a volume.
    """
    mask, score_map = np.asarray(mask) != 0, np.asarray(score_map)
    if mask.ndim not in (2, 3) or mask.shape != score_map.shape:
        raise ValueError(
            f"`mask` and `score_map` must have one 2D or 3D shape, got {mask.shape} and {score_map.shape}. "
            "Drop the channel dimension."
        )
    matrix, voxel_size, unit = np.eye(mask.ndim + 1), 1.0, "pixels"
    if mask.ndim == 3:
        matrix, unit = _check_affine(affine), "mm3"
        voxel_size = float(abs(np.linalg.det(matrix[:3, :3])))
    found = rank_components(mask, score_map, voxel_size, min_size)
    if len(found.sizes) == 0:
        return Regions([], found.labels, found.box)
    start = np.array([part.start for part in found.box])
    sums, places, tops = _measure(found, score_map[found.box])
    means, centres, tops = sums / found.sizes, places / found.sizes[:, None] + start, tops + start
    scanner = centres @ matrix[:-1, :-1].T + matrix[:-1, -1]
    reference = _locate(centres, affine, frame)
    extents = [np.array([[e.start, e.stop - 1] for e in extent]) for extent in ndimage.find_objects(found.labels)]
    p_values = None
    if calibration is not None and calibration.fitted:
        # Of healthy scans only what exceeds this was measured: below it nothing is unusual.
        judged = calibration.p_values(np.asarray(found.peaks, dtype=np.float64))
        p_values = np.where(found.peaks > REGION_THRESHOLD, judged, 1.0).tolist()
    listed = [
        Region(
            index=i + 1,
            num_voxels=int(size),
            size=float(size * voxel_size),
            unit=unit,
            peak_score=float(found.peaks[i]),
            mean_score=float(means[i]),
            p_value=None if p_values is None else p_values[i],
            anatomy=None,
            centroid_voxel=tuple(centres[i].tolist()),
            centroid=tuple(scanner[i].tolist()),
            centroid_reference=None if reference is None else tuple(reference[i].tolist()),
            peak_voxel=tuple(tops[i].tolist()),
            first=tuple((extents[i][:, 0] + start).tolist()),
            last=tuple((extents[i][:, 1] + start).tolist()),
        )
        for i, size in enumerate(found.sizes)
    ]
    return Regions(listed, found.labels, found.box)


def name_regions(regions: Regions, atlas: NDArray[np.integer], names: Mapping[int, str]) -> list[Region]:
    """Name each region after the atlas's region that holds most of its voxels.

    Args:
        regions: as :func:`compute_regions` gives them.
        atlas: shape of the mask, 0 where no region is.
        names: label → name; a label without one is called by its number.
    """
    named = []
    inside = atlas[regions.box]
    for region, extent in zip(regions.listed, ndimage.find_objects(regions.labels), strict=True):
        counts = np.bincount(inside[extent][regions.labels[extent] == region.index])
        label = int(counts[1:].argmax()) + 1 if counts[1:].any() else 0
        named.append(replace(region, anatomy=names.get(label, str(label)) if label else None))
    return named


def _measure(
    found: Components, score_map: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Sum of scores ``(n,)``, sum of indices ``(n, rank)`` and indices of the peak ``(n, rank)`` of each component."""
    number, rank = len(found.sizes), found.labels.ndim
    sums, places, tops = np.zeros(number), np.zeros((number, rank)), np.full((number, rank), -1)
    for start, slab, where in iterate_slabs(found.labels):
        owner, scores = slab[where] - 1, score_map[start : start + len(slab)][where]
        sums += np.bincount(owner, scores.astype(np.float64), number)
        indices = (where[0] + start, *where[1:])
        for axis, index in enumerate(indices):
            places[:, axis] += np.bincount(owner, index, number)
        at_peak = np.flatnonzero((scores == found.peaks[owner]) & (tops[owner, 0] < 0))
        owners, firsts = np.unique(owner[at_peak], return_index=True)
        tops[owners] = np.stack([index[at_peak[firsts]] for index in indices], 1)
    return sums, places, tops


def _check_affine(affine: NDArray[np.floating] | None) -> NDArray[np.float64]:
    matrix = None if affine is None else np.asarray(affine, dtype=np.float64)
    if matrix is None or matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise ValueError(f"`affine` must be an invertible (4, 4) matrix for a volume, got {affine}.")
    return matrix


def _locate(
    centres: NDArray[np.float64], affine: NDArray[np.floating] | None, frame: Frame | None
) -> NDArray[np.float64] | None:
    """Bring voxel indices (n, 2 or 3) to the reference's coordinates (n, 3); a picture lies at z = 0."""
    if frame is None or frame.kind == "none" or affine is None:
        return None
    points = np.pad(centres, [(0, 0), (0, 3 - centres.shape[1])])
    return frame.locate(points @ affine[:3, :3].T + affine[:3, 3])


_TRIPLES = ("centroid_voxel", "centroid", "centroid_reference", "peak_voxel", "first", "last")
_COLUMNS = (
    *(
        "name",
        "region",
        "p_value",
        "q_value",
        "in_range",
        "size",
        "unit",
        "num_voxels",
        "peak_score",
        "mean_score",
        "anatomy",
    ),
    *(f"{triple}_{axis}" for triple in _TRIPLES for axis in range(3)),
)


def write_regions(
    path_csv: str | os.PathLike[str], path_json: str | os.PathLike[str], regions: Mapping[str, Sequence[Region]]
) -> None:
    """Write the regions of all scans as CSV (one row per region) and JSON (scan name → list of regions).

    Either file appears complete or not at all. In the CSV, names that a spreadsheet would run as a formula are quoted,
    and the third coordinate of 2D images stays empty.

    Args:
        path_csv: table to write.
        path_json: JSON to write.
        regions: scan name → its regions; a scan without regions is in the JSON only.
    """
    rows = []
    for name, flagged in regions.items():
        for region in flagged:
            values = {**asdict(region), "name": name, "region": region.index}
            for triple in _TRIPLES:
                values |= {f"{triple}_{axis}": value for axis, value in enumerate(values[triple] or ())}
            rows.append([values.get(column) for column in _COLUMNS])
    write_csv(path_csv, _COLUMNS, rows)
    write_json(path_json, {name: [asdict(region) for region in flagged] for name, flagged in regions.items()})
