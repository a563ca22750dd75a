# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A scan at the resolution of the atlases: what a fit keeps of it, and what is registered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["shrink"]

Array = NDArray[np.float32]

#: Places along the longest side of an atlas of intensities, and the room around a scan in it.
_PLACES = 96
_ROOM = 1.15


def shrink(image: Array, affine: NDArray[np.float64]) -> tuple[Array, NDArray[np.float64]]:
    """Average whole blocks of voxels, so that the scan is about as fine as an atlas around it; nothing is interpolated.

    How coarse that is follows from the scan's own size: a brain comes to 2 mm, a mouse's to less. What is shrunken is
    not shrunken again.

    Args:
        image: ``(X, Y, Z)``, background exactly 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm).

    Returns:
        The means over the foreground of each block, 0 where less than half of it is foreground, and its affine.
    """
    voxel = np.sqrt((affine[:3, :3] ** 2).sum(0))
    steps = np.maximum(np.rint(_spacing(image, voxel) / voxel), 1).astype(int)
    if (steps == 1).all():
        return image, affine
    padded = np.pad(image, [(0, -size % step) for size, step in zip(image.shape, steps, strict=True)])
    count, total = _add_blocks(padded != 0, steps, np.dtype(np.int32)), _add_blocks(padded, steps, np.dtype(np.float64))
    small = np.where(2 * count >= steps.prod(), total / np.maximum(count, 1), 0).astype(np.float32)
    if not small.any():  # thinner than a block
        return image, affine
    matrix = affine @ np.diag([*steps.astype(float), 1.0])
    matrix[:3, 3] = affine[:3, :3] @ ((steps - 1) / 2) + affine[:3, 3]
    return small, matrix


def _add_blocks(values: NDArray[Any], steps: NDArray[np.int_], kind: np.dtype[Any]) -> NDArray[Any]:
    """Sums over blocks of so many elements, axis by axis: the first, along which memory is walked in rows, is cheap."""
    for axis, step in enumerate(steps):
        shape = values.shape
        split = values.reshape(*shape[:axis], shape[axis] // step, step, *shape[axis + 1 :])
        values = split.sum(axis + 1, dtype=kind)
    return values


def _spacing(image: Array, voxel: NDArray[np.float64]) -> float:
    """Distance between the places of an atlas around the foreground, mm."""
    inside = image > 0
    sizes = [np.ptp(np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis})))) + 1 for axis in range(3)]
    return float((np.array(sizes) * voxel).max() * _ROOM / _PLACES)
