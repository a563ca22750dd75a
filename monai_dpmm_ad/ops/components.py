# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Connected components of masks, looked for only where the mask is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from monai_dpmm_ad.ops.slabs import slab_bounds

__all__ = [
    "Components",
    "compute_bounding_box",
    "find_peaks",
    "iterate_slabs",
    "label_components",
    "rank_components",
    "remove_small",
]


def compute_bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Find the smallest box that holds every True element.

    Args:
        mask: boolean, any number of dimensions.

    Returns:
        One slice per dimension, or None for an empty mask.
    """
    box: tuple[slice, ...] = ()
    view = mask
    for axis in range(mask.ndim):
        other = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(view.any(axis=other))
        if hits.size == 0:
            return None
        box += (slice(int(hits[0]), int(hits[-1]) + 1),)
        # Shrinking as we go makes the passes over the later axes nearly free.
        view = mask[box]
    return box


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int, tuple[slice, ...]]:
    """Label the connected components (neighbours share a face, an edge or a corner: 8 in 2D, 26 in 3D).

    Args:
        mask: boolean, 2D or 3D.

    Returns:
        int32 labels inside the bounding box (0 = background), the number of components, and the box (empty slices
        for an empty mask).
    """
    box = compute_bounding_box(mask)
    if box is None:
        empty = (slice(0, 0),) * mask.ndim
        return np.zeros((0,) * mask.ndim, np.int32), 0, empty
    labels, number = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim, bool))
    return labels, int(number), box


class Components(NamedTuple):
    """Connected components of a mask, numbered from 1 by falling peak score, then by falling size.

    Args:
        labels: int32, inside ``box``; 0 is background.
        box: one slice per dimension.
        sizes: (n,), voxels of each.
        peaks: (n,), highest score of each.
    """

    labels: np.ndarray
    box: tuple[slice, ...]
    sizes: np.ndarray
    peaks: np.ndarray


def rank_components(
    mask: np.ndarray, score_map: np.ndarray, voxel_size: float = 1.0, min_size: float = 0.0
) -> Components:
    """Label the components of a mask in an order that does not depend on how the array is turned.

    Args:
        mask: boolean, 2D or 3D.
        score_map: same shape.
        voxel_size: of a voxel, in the unit of ``min_size``.
        min_size: components that are smaller are left out.

    Example:
        >>> rank_components(np.array([[1, 0, 1, 1]]) > 0, np.array([[0.5, 0.0, 0.1, 0.9]])).labels
        array([[2, 0, 1, 1]], dtype=int32)
    """
    labels, number, box = label_components(mask)
    sizes, peaks = np.zeros(number, np.int64), find_peaks(labels, number, score_map[box])
    for _, slab, where in iterate_slabs(labels):
        sizes += np.bincount(slab[where] - 1, minlength=number)
    order = np.lexsort((-sizes, -peaks))
    order = order[sizes[order] * voxel_size >= min_size]
    ranks = np.zeros(number + 1, np.int32)
    ranks[order + 1] = np.arange(1, len(order) + 1)
    for _, slab, where in iterate_slabs(labels):
        slab[where] = ranks[slab[where]]
    return Components(labels, box, sizes[order], peaks[order])


def find_peaks(labels: np.ndarray, number: int, scores: np.ndarray) -> np.ndarray:
    """The highest score of each component ``(number,)``; arguments as `label_components` gives them, inside the box."""
    peaks = np.full(number, -np.inf)
    for start, slab, where in iterate_slabs(labels):
        np.maximum.at(peaks, slab[where] - 1, scores[start : start + len(slab)][where])
    return peaks


def iterate_slabs(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray, tuple[np.ndarray, ...]]]:
    """Go through labels slab by slab along the first axis: the indices of all voxels would take 24 times their memory.

    Args:
        labels: 2D or 3D, 0 is background.

    Yields:
        Where the slab begins, a view of it, and the indices in it of what is labelled.
    """
    for bounds in slab_bounds(labels.shape):
        slab = labels[bounds]
        yield bounds.start, slab, np.nonzero(slab)


def remove_small(levels: np.ndarray, voxel_size: float, min_size: float) -> np.ndarray:
    """Set connected components (of all levels together) that are smaller than a region must be to 0.

    Args:
        levels: (H, W) or (H, W, D), 0 = background.
        voxel_size: of a voxel, in mm³; 1 for a picture.
        min_size: least size that stays, in mm³; in pixels for a picture.
    """
    if min_size <= 0:
        return levels
    labels, number, box = label_components(levels > 0)
    kept = np.bincount(labels.ravel(), minlength=number + 1) * voxel_size >= min_size
    cleaned = levels.copy()
    cleaned[box] *= kept[labels]
    return cleaned
