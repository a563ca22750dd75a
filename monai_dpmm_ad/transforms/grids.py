# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Where the voxels of an image lie, and whether two images lie on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data import MetaTensor

from monai_dpmm_ad.errors import ScanError

__all__ = ["check_affine", "largest_shift", "share_grid"]


def check_affine(source: str, image: MetaTensor) -> None:
    """Refuse an image ``(1, *spatial)`` whose voxels have no place.

    Raises:
        ScanError: an affine with NaN or infinite entries, or one that is singular.
    """
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all():
        raise ScanError(source, "has an affine with NaN or infinite entries")
    rank = image.ndim - 1
    linear = affine[:rank, :rank]
    sizes = np.linalg.norm(linear, axis=0)
    if sizes.min() < 1e-6 or abs(np.linalg.det(linear / np.maximum(sizes, 1e-6))) < 1e-3:
        raise ScanError(source, "has a singular affine: its voxel axes do not span the space")


def share_grid(one: MetaTensor, other: Any) -> bool:
    """Whether two images ``(1, *spatial)`` have voxels at the same places, up to a tenth of a voxel."""
    return one.shape == other.shape and largest_shift(one, other) <= 0.1


def largest_shift(label: MetaTensor, image: MetaTensor) -> float:
    """Return how far, in voxels of the image, a label's affine moves any corner of the grid."""
    rank = image.ndim - 1
    corners = np.array(list(np.ndindex(*([2] * rank)))) * (np.array(image.shape[1:]) - 1)
    points = np.ones((len(corners), 4))
    points[:, :rank] = corners
    points[:, rank:3] = 0
    a, b = np.asarray(label.affine, dtype=float), np.asarray(image.affine, dtype=float)
    voxel = np.linalg.norm(b[:3, :rank], axis=0).min()
    return float(np.linalg.norm(points @ (a - b).T, axis=1).max() / voxel)
