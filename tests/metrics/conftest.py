# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small synthetic scans with lesions, noise, ties and a black background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


def make_scan(
    rng: np.random.Generator, index: int, shape: tuple[int, ...], levels: int | None = None
) -> dict[str, Any]:
    """Make one scan as keyword arguments of ``AnomalyMetrics.update``; odd ones have lesions."""
    foreground = np.zeros(shape, bool)
    foreground[tuple(slice(1, n - 1) for n in shape)] = True
    mask = np.zeros(shape, bool)
    if index % 2:
        mask[tuple(slice(2, 2 + n // 3) for n in shape)] = True
        mask[tuple(slice(n - 3, n - 1) for n in shape)] = True
    scores = rng.beta(2, 6, shape) + 0.2 * mask * rng.random(shape)
    if levels is not None:
        scores = np.ceil(scores * levels) / levels  # ties
    scores = np.where(foreground, scores, 0).astype(np.float32)
    return {
        "name": f"scan{index:03d}",
        "score_map": scores,
        "mask": mask,
        "foreground": foreground,
        "image_score": float(np.round(scores.mean() * 1.3 ** (index % 2), 3)),
    }


@pytest.fixture(params=[((14, 13), None), ((14, 13), 6), ((7, 8, 6), None), ((7, 8, 6), 5)])
def scans(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Eight scans: 2D and 3D, with distinct and with tied scores."""
    shape, levels = request.param
    rng = np.random.default_rng(7)
    return [make_scan(rng, i, shape, levels) for i in range(8)]


@pytest.fixture
def make_scans() -> Callable[..., list[dict[str, Any]]]:
    """Factory of scans."""

    def make(
        number: int, shape: tuple[int, ...] = (14, 13), levels: int | None = None, seed: int = 0
    ) -> list[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        return [make_scan(rng, i, shape, levels) for i in range(number)]

    return make
