# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Foreground-normalised bilinear upsampling, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["upsample_scores_slow"]


def upsample_scores_slow(
    grid: np.ndarray, valid: np.ndarray, size: tuple[int, int], patch_size: tuple[float, float]
) -> np.ndarray:
    """One image: ``grid`` and ``valid`` (h, w) to a map (H, W)."""
    h, w = grid.shape
    cells = [(i, j) for i in range(h) for j in range(w) if valid[i, j]]
    result = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            r = min(max((y + 0.5) / patch_size[0] - 0.5, 0), h - 1)
            c = min(max((x + 0.5) / patch_size[1] - 0.5, 0), w - 1)
            total = weights = 0.0
            for i, j in cells:
                weight = max(0.0, 1 - abs(r - i)) * max(0.0, 1 - abs(c - j))
                total += weight * grid[i, j]
                weights += weight
            if weights > 0:
                result[y, x] = total / weights
            elif cells:
                own = (math.floor(r + 0.5), math.floor(c + 0.5))
                nearest = min(math.dist(own, cell) for cell in cells)
                # Ties are free: NaN says that any of several patches may be taken.
                scores = {grid[cell] for cell in cells if math.dist(own, cell) == nearest}
                result[y, x] = scores.pop() if len(scores) == 1 else np.nan
    return result
