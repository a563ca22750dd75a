# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small slices and a small recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pretraining.heads import SIDE, draw_head

from monai_dpmm_ad.pretraining import Recipe
from monai_dpmm_ad.pretraining.data import SlicePool


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
            "synthetic_share": 0.0,
            "whole_share": 0.0,
            "precision": "fp32",
        }
        return Recipe(**{**small, **changes})

    return make
