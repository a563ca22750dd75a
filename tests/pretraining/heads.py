# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Drawn heads for the tests of pre-training."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SIDE = 64


def draw_head(rng: np.random.Generator) -> np.ndarray:
    """A textured ellipse with two darker ventricles on a black background, (64, 64) uint8."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    radii = rng.uniform(24, 30, 2)
    texture = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 2)
    head = 85 + 60 * texture
    for side in (-1, 1):
        head[(rows / 10) ** 2 + ((columns - 7 * side) / 4) ** 2 < 1] = 30
    inside = (rows / radii[0]) ** 2 + (columns / radii[1]) ** 2 < 1
    return np.where(inside, np.clip(head, 1, 255), 0).astype(np.uint8)
