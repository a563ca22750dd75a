# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The table of detected lesions: connected components of a mask, measured in scanner space."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

from monai_dpmm_ad.ops.components import iterate_slabs, rank_components
from monai_dpmm_ad.utils.files import write_csv, write_json

__all__ = ["Lesion", "compute_lesions", "write_lesions"]


@dataclass(frozen=True)
class Lesion:
    """One connected component, numbered from 1 by falling peak score, then by falling size.

    Args:
        index: number within the scan.
        num_voxels: size in voxels (pixels).
        size: volume in mm³; area in pixels for a 2D image.
        unit: ``"mm3"`` or ``"pixels"``.
        centroid: mean position: x, y, z in mm in scanner coordinates (RAS: x to the right, y to the front, z up); row
            and column for a 2D image.
        peak_score: highest score.
        mean_score: mean score.
        first: lowest index along each array dimension.
        last: highest index along each array dimension (inclusive).
    """

    index: int
    num_voxels: int
    size: float
    unit: str
    centroid: tuple[float, ...]
    peak_score: float
    mean_score: float
    first: tuple[int, ...]
    last: tuple[int, ...]


def compute_lesions(
    mask: np.ndarray, score_map: np.ndarray, affine: np.ndarray | None = None, min_volume_mm3: float = 0.0
) -> list[Lesion]:
    """Measure the connected components of a mask (neighbours share a face, an edge or a corner).

    Args:
        mask: (H, W) or (H, W, D), nonzero = flagged.
        score_map: same shape.
        affine: (4, 4), from voxel indices to scanner RAS coordinates in mm; needed in 3D, ignored in 2D.
        min_volume_mm3: smaller components are left out; in pixels for a 2D image.

    Returns:
        Lesions by falling peak score, then by falling size: an order that does not depend on the array.

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
    labels, box, sizes, peaks = rank_components(mask, score_map, voxel_size, min_volume_mm3)
    number = len(sizes)
    if number == 0:
        return []
    sums, places = _measure(labels, score_map[box], number)
    means, centres = sums / sizes, places / sizes[:, None] + [s.start for s in box]
    world = centres @ matrix[:-1, :-1].T + matrix[:-1, -1]
    extents = ndimage.find_objects(labels)
    return [
        Lesion(
            index=i + 1,
            num_voxels=int(sizes[i]),
            size=float(sizes[i] * voxel_size),
            unit=unit,
            centroid=tuple(float(x) for x in world[i]),
            peak_score=float(peaks[i]),
            mean_score=float(means[i]),
            first=tuple(b.start + e.start for b, e in zip(box, extents[i], strict=True)),
            last=tuple(b.start + e.stop - 1 for b, e in zip(box, extents[i], strict=True)),
        )
        for i in range(number)
    ]


def _measure(labels: np.ndarray, score_map: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
    """Sum of scores ``(n,)`` and sum of indices ``(n, rank)`` of each component."""
    sums, places = np.zeros(number), np.zeros((number, labels.ndim))
    for start, slab, where in iterate_slabs(labels):
        owner = slab[where] - 1
        sums += np.bincount(owner, score_map[start : start + len(slab)][where].astype(np.float64), number)
        for axis, index in enumerate(where):
            places[:, axis] += np.bincount(owner, index + (start if axis == 0 else 0), number)
    return sums, places


def _check_affine(affine: np.ndarray | None) -> np.ndarray:
    matrix = None if affine is None else np.asarray(affine, dtype=np.float64)
    if matrix is None or matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise ValueError(f"`affine` must be an invertible (4, 4) matrix for a volume, got {affine}.")
    return matrix


_COLUMNS = (
    "name", "lesion", "size", "unit", "num_voxels", "centroid_0", "centroid_1", "centroid_2",
    "peak_score", "mean_score", "first_0", "first_1", "first_2", "last_0", "last_1", "last_2",
)  # fmt: skip


def write_lesions(
    path_csv: str | os.PathLike[str], path_json: str | os.PathLike[str], lesions: Mapping[str, Sequence[Lesion]]
) -> None:
    """Write the lesions of all scans as CSV (one row per lesion) and JSON (scan name → list of lesions).

    Either file appears complete or not at all. In the CSV, names that a spreadsheet would run as a formula are quoted,
    and the third coordinate of 2D images stays empty.

    Args:
        path_csv: table to write.
        path_json: JSON to write.
        lesions: scan name → its lesions; a scan without lesions is in the JSON only.
    """
    rows = []
    for name, found in lesions.items():
        for lesion in found:
            triples = [[*values, None][:3] for values in (lesion.centroid, lesion.first, lesion.last)]
            head = [name, lesion.index, lesion.size, lesion.unit, lesion.num_voxels]
            rows.append([*head, *triples[0], lesion.peak_score, lesion.mean_score, *triples[1], *triples[2]])
    write_csv(path_csv, _COLUMNS, rows)
    write_json(path_json, {name: [asdict(lesion) for lesion in found] for name, found in lesions.items()})
