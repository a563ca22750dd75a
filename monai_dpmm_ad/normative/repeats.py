# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A scan as if it had been taken again: moved, with a new bias field and new noise of its own level."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.normative.halfway import bring
from monai_dpmm_ad.normative.intensity import polynomials
from monai_dpmm_ad.normative.lattice import Lattice
from monai_dpmm_ad.normative.registration import turn

__all__ = ["draw_motion", "estimate_noise", "repeat_scan"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

_MOTION = 3.0  # mm along each axis, at most
_TURN = 3.0  # degrees about each axis, at most
_FIELD = 0.05  # relative size of the bias field at the rim, one standard deviation of each of its terms


def draw_motion(shape: tuple[int, ...], affine: Matrix, rng: np.random.Generator) -> Matrix:
    """Draw how a person lies otherwise, a rigid ``(4, 4)`` in scanner coordinates (mm), about the middle of a grid."""
    middle = affine @ [*((np.array(shape) - 1) / 2), 1]
    motion = np.eye(4)
    motion[:3, :3] = turn(rng.uniform(-_TURN, _TURN, 3).tolist())
    motion[:3, 3] = middle[:3] - motion[:3, :3] @ middle[:3] + rng.uniform(-_MOTION, _MOTION, 3)
    return motion


def repeat_scan(image: Array, affine: Matrix, rng: np.random.Generator, motion: Matrix | None = None) -> Array:
    """Simulate another scan of the same person on the same scanner: measurement error alone, nobody has changed.

    Args:
        image: ``(X, Y, Z)``, in the units of its file; where its background is exactly 0 it stays so.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm).
        rng: decides on motion, field and noise.
        motion: what all sequences of one visit have alike, see :func:`draw_motion`; None draws one.

    Returns:
        float32 of the same shape, on the same grid.
    """
    if motion is None:
        motion = draw_motion(image.shape, affine, rng)
    grid = Lattice.indices(image.shape)
    moved = bring(image, affine, grid, motion @ affine)
    points = 2 * np.stack(np.meshgrid(*[np.linspace(0, 1, size) for size in image.shape], indexing="ij"), -1) - 1
    terms = polynomials(points.reshape(-1, 3), 2)
    field = np.exp(terms @ rng.normal(0, _FIELD / math.sqrt(3), terms.shape[1])).reshape(image.shape)
    noisy = moved * field + rng.normal(0, estimate_noise(image), image.shape)
    if (image == 0).mean() > 0.1:  # cut out of its background
        noisy[bring(image != 0, affine, grid, motion @ affine) < 0.5] = 0
    return noisy.astype(np.float32)


def estimate_noise(image: Array) -> float:
    """Standard deviation of a scan's noise, from what no plane through three neighbours explains.

    Args:
        image: ``(X, Y, Z)``; what is exactly 0 does not count.

    Reference:
        Immerkær 1996, "Fast noise variance estimation", within slices, by the median instead of the mean.
    """
    kernel = np.array([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])
    axes = [axis for axis in range(3) if image.shape[axis] >= 3]
    thick = min(axes, key=lambda axis: image.shape[axis])
    rough = np.abs(ndimage.convolve(image.astype(np.float64), np.expand_dims(kernel, thick)))
    inside = ndimage.binary_erosion(image != 0, np.ones((3, 3, 3)))
    return float(np.median(rough[inside])) * 1.4826 / 6 if inside.any() else 0.0
