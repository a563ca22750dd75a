# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Registration of two scans of one person in the space half-way between them, in which both are treated alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import expm, sqrtm

from monai_dpmm_ad.normative.intensity import weigh_robustly
from monai_dpmm_ad.normative.lattice import Lattice, Volume

__all__ = ["MOST_TURNED", "bring", "meet_halfway", "split_transform", "turned_by"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

_STEPS = 12
_ENOUGH = 0.005  # mm: a smaller step is the last
MOST_TURNED = 150.0  # degrees; what is turned further has no half-way
_FAR = 30.0  # mm: a larger step leads nowhere
#: What the gradients of two scanners may differ by: the transform may stretch by no more.
_MOST_STRETCH = 0.02


def meet_halfway(before: Volume, after: Volume, start: Matrix, stretch: bool) -> Matrix:
    """Refine a transform between two scans by Gauss and Newton's method in the space half-way.

    With a and b the scans brought there, v a small motion and g, o a gain and an offset, the squares of

        b − a + ½ (∇a + ∇b) · v + g ½ (a + b) + o

    are made least, with Welsch's weights, so that what changed between the scans has no say. Exchanging the scans
    gives the inverse.

    Args:
        before: the first scan, its foreground's median about 1.
        after: the second.
        start: ``(4, 4)``, from the first scan's coordinates to the second's (mm).
        stretch: let the transform be affine, where it comes out within 2 % of rigid.

    Returns:
        The refined transform, ``(4, 4)``.

    Reference:
        Reuter, Rosas and Fischl 2010, "Highly accurate inverse consistent registration: a robust approach".
    """
    matrix = start
    for _ in range(_STEPS):
        if not turned_by(matrix) < MOST_TURNED:
            return start
        half = split_transform(matrix)
        motion, size = _find_motion(before, after, half, stretch)
        if not size < _FAR:  # they do not show the same
            return start
        matrix = half @ expm(motion) @ half
        if size < _ENOUGH:
            break
    stretched = np.abs(np.linalg.svd(matrix[:3, :3])[1] - 1).max() if np.isfinite(matrix).all() else np.inf
    return matrix if stretched <= (_MOST_STRETCH if stretch else 1e-6) else start


def turned_by(matrix: Matrix) -> float:
    """Angle (degrees) by which a rigid transform turns; NaN of what is none."""
    return math.degrees(math.acos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))


def split_transform(matrix: Matrix) -> Matrix:
    """The transform that leads half the way: its square is the matrix, ``(4, 4)``."""
    return np.asarray(np.real(sqrtm(matrix)), dtype=np.float64)


def bring(values: NDArray[np.generic], affine: Matrix, lattice: Lattice, way: Matrix, order: int = 1) -> Array:
    """Interpolate an image at the points of a lattice; 0 beyond it.

    Args:
        values: ``(X, Y, Z)``.
        affine: from its indices to its own space (mm).
        lattice: in another space.
        way: ``(4, 4)``, from that space to the image's (mm).
        order: 1 is linear, 0 takes the nearest.
    """
    index = np.linalg.inv(affine) @ way @ lattice.affine
    image = values.astype(np.float32, copy=False)
    return ndimage.affine_transform(image, index[:3, :3], index[:3, 3], output_shape=lattice.shape, order=order)


def _invert(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _find_motion(before: Volume, after: Volume, half: Matrix, stretch: bool) -> tuple[Matrix, float]:
    """The next step as the logarithm of a transform ``(4, 4)``, and how far it moves what it moves most (mm)."""
    lattice = _cover(before.lattice, after.lattice, half)
    pair = [
        bring(volume.values * volume.weight, volume.lattice.affine, lattice, way)
        for volume, way in ((before, _invert(half)), (after, half))
    ]
    mean: NDArray[Any] = np.asarray((pair[0] + pair[1]) / 2)
    inside = (pair[0] > 0) & (pair[1] > 0)
    if inside.sum() < 100:
        return np.zeros((4, 4)), math.inf
    slopes = np.stack([slope[inside] for slope in np.gradient(mean, lattice.spacing)], 1).astype(np.float64)
    points = np.argwhere(inside) * lattice.spacing + np.array(lattice.origin)
    middle = points.mean(0)
    columns = [slopes[:, i] * (points - middle)[:, j] for i in range(3) for j in range(3)]
    if not stretch:  # rotations alone: about x, y and z
        columns = [columns[7] - columns[5], columns[2] - columns[6], columns[3] - columns[1]]
    design = np.stack([*columns, *slopes.T, mean[inside], np.ones(len(points))], 1)
    found: Matrix = weigh_robustly(design, -(pair[1] - pair[0])[inside].astype(np.float64))
    linear = np.zeros((3, 3))
    if stretch:
        linear = found[:9].reshape(3, 3)
    else:
        x, y, z = found[:3]
        linear = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    motion = np.zeros((4, 4))
    motion[:3, :3], motion[:3, 3] = linear, found[-5:-2] - linear @ middle
    corners = points[[*points.argmin(0), *points.argmax(0)]]
    return motion, float(np.abs(corners @ motion[:3, :3].T + motion[:3, 3]).max())


def _cover(one: Lattice, two: Lattice, half: Matrix) -> Lattice:
    """A lattice half-way that covers both."""
    corners = []
    for lattice, way in ((one, half), (two, np.linalg.inv(half))):
        ends = np.stack(np.meshgrid(*[(0, size - 1) for size in lattice.shape]), -1).reshape(-1, 3)
        places = ends * lattice.spacing + np.array(lattice.origin)
        corners.append(places @ way[:3, :3].T + way[:3, 3])
    both = np.concatenate(corners)
    return Lattice.around(both.min(0), both.max(0), min(one.spacing, two.spacing))
