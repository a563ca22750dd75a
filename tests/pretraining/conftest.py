# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small slices and a small recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_dpmm_ad.pretraining import Recipe
from monai_dpmm_ad.pretraining.data import SlicePool

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


@pytest.fixture
def pool() -> SlicePool:
    rng = np.random.default_rng(0)
    pixels = np.stack([draw_head(rng) for _ in range(24)])
    return SlicePool(pixels, np.full((24, 2), SIDE), np.arange(24) % 3 > 0, np.ones(24))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        small = {
            "image_size": SIDE,
            "view_size": 32,
            "embed_dim": 32,
            "num_layers": 2,
            "num_heads": 2,
            "mlp_ratio": 2,
            "steps": 4,
            "batch_size": 4,
            "projection_dim": 16,
            "num_prototypes": 16,
            "num_synthetic": 0,
            "precision": "fp32",
        }
        return Recipe(**{**small, **changes})

    return make
