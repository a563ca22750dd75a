# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Two visits of one person: where each lies in the space half-way between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.normative.halfway import MOST_TURNED, meet_halfway, split_transform, turned_by
from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample
from monai_dpmm_ad.normative.registration import measure_quality, register

__all__ = ["Visit", "VisitPair", "align_visits"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

#: Correlation that two visits of one person reach in any case.
_LEAST_QUALITY = 0.6
#: Spacing (mm) of the search in all positions, and of the last steps; no finer than the voxels.
_COARSE, _FINE = 3.0, 2.0
_MARGIN = 10.0  # mm of empty space around a visit
_MOST_PLACES = 16_000_000


@dataclass(frozen=True, eq=False)
class Visit:
    """One scan and what a bundle says of it.

    Args:
        path: of the scan, for errors.
        image: ``(X, Y, Z)``, preprocessed, background exactly 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (RAS, mm).
        anomaly_map: ``(x, y, z)``, finished, on the scan's own grid.
        mask: same shape, what is flagged.
        map_affine: of map and mask.
        others: further sequences, each like ``image``.
    """

    path: str
    image: Array
    affine: Matrix
    anomaly_map: Array
    mask: NDArray[np.bool_]
    map_affine: Matrix
    others: tuple[Array, ...] = ()

    @cached_property
    def median(self) -> float:
        """Of the foreground's intensities."""
        return float(np.median(self.image[self.image > 0]))


@dataclass(frozen=True, eq=False)
class VisitPair:
    """Where two visits lie in the space half-way between them.

    Args:
        lattice: of that space.
        to_before: ``(4, 4)``, from that space to the first visit's scanner coordinates (mm).
        to_after: ``(4, 4)``, to the second's.
        quality: correlation of the registered visits.
    """

    lattice: Lattice
    to_before: Matrix
    to_after: Matrix
    quality: float


def align_visits(before: Visit, after: Visit) -> VisitPair:
    """Register two visits and find the space half-way; exchanging the visits exchanges the two transforms.

    Raises:
        ScanError: naming the second visit, when the two do not show the same.
    """
    first, second = sorted((before, after), key=_rank)  # the search does not treat both alike
    matrix, quality = _register(first, second)
    matrix = matrix if first is before else np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    angle = turned_by(matrix)
    if not quality >= _LEAST_QUALITY or angle > MOST_TURNED:
        raise ScanError(
            after.path,
            f"cannot be registered to the first visit {before.path} (correlation {quality:.2f}, turned by {angle:.0f}°)"
            ": both have to show the same person and part of the body, cut out in the same way",
        )
    to_after = split_transform(matrix)
    to_before = np.asarray(np.linalg.inv(to_after), dtype=np.float64)
    corners = [_corners(before) @ to_after[:3, :3].T + to_after[:3, 3]]
    corners.append(_corners(after) @ to_before[:3, :3].T + to_before[:3, 3])
    low, high = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
    spacing = max(min(_size(before), _size(after)), (float(np.prod(high - low)) / _MOST_PLACES) ** (1 / 3))
    return VisitPair(Lattice.around(low, high, spacing), to_before, to_after, quality)


def _rank(visit: Visit) -> tuple[float, float]:
    """An order of visits that does not depend on which one is named first."""
    return float(visit.image.sum(dtype=np.float64)), float(visit.affine.sum())


def _register(fixed: Visit, moving: Visit) -> tuple[Matrix, float]:
    """The transform from one visit to another (mm), and the correlation there."""
    size = max(_size(fixed), _size(moving))
    coarse = [_shrink(visit, max(_COARSE, size)) for visit in (fixed, moving)]
    frame = register(moving.image / np.float32(moving.median), moving.affine, coarse[0], rigid=True)
    turned, _, back = np.linalg.svd(frame.inverse[:3, :3])
    start = frame.inverse.copy()
    start[:3, :3] = turned @ back
    start = meet_halfway(coarse[0], coarse[1], start, stretch=False)
    fine = [_shrink(visit, max(_FINE, size)) for visit in (fixed, moving)]
    matrix = meet_halfway(fine[0], fine[1], start, stretch=True)
    return matrix, measure_quality(coarse[0], coarse[1], matrix)


def _size(visit: Visit) -> float:
    """Side (mm) of a cube as large as a voxel."""
    return abs(float(np.linalg.det(visit.affine[:3, :3]))) ** (1 / 3)


def _shrink(visit: Visit, spacing: float) -> Volume:
    return resample(visit.image / np.float32(visit.median), visit.affine, spacing, margin=_MARGIN)


def _corners(visit: Visit) -> Matrix:
    """Corners of the box around a visit's foreground, ``(8, 3)``, mm."""
    inside = visit.image > 0
    ends = [np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    grid = np.stack(np.meshgrid(*ends), -1).reshape(-1, 3)
    return grid @ visit.affine[:3, :3].T + visit.affine[:3, 3]
