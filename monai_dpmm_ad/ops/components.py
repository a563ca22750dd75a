# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Connected components of masks, looked for only where the mask is."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["compute_bounding_box", "label_components"]


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
