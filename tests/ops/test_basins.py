# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Basins and saddles of images against a walk from pixel to pixel, whatever the slabs are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from monai_dpmm_ad.ops import basins, slabs
from monai_dpmm_ad.ops.basins import climb, find_maxima, find_saddles, number_basins


def neighbours(place: tuple[int, ...], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    ranges = [range(max(0, p - 1), min(n, p + 2)) for p, n in zip(place, shape, strict=True)]
    return list(product(*ranges))


def walk(height: np.ndarray, place: tuple[int, ...]) -> int:
    """Flat index of the maximum that steepest ascent reaches, ties by index."""
    while True:
        best = max(neighbours(place, height.shape), key=lambda p: (height[p], np.ravel_multi_index(p, height.shape)))
        if best == place:
            return int(np.ravel_multi_index(place, height.shape))
        place = best


@pytest.mark.parametrize("shape", [(9, 11), (6, 7, 5), (1, 8), (1, 1)])
@pytest.mark.parametrize("size", [1, 20, 1 << 18])
def test_basins_and_saddles(shape: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs.slab_bounds, "__defaults__", (size,))
    monkeypatch.setattr(basins, "_PIECE", size)
    generator = np.random.default_rng(len(shape))
    height = generator.integers(0, 6, shape).astype(np.int32)
    height[(0,) * len(shape)] = 3
    roots = climb(height)
    expected = [walk(height, place) for place in np.ndindex(shape)]
    assert roots.tolist() == expected
    maxima = find_maxima(roots, height)
    assert maxima.tolist() == sorted({root for root in expected if height.ravel()[root] > 0})
    numbered = number_basins(roots, height, maxima, np.arange(len(maxima)))
    order = {int(root): number for number, root in enumerate(maxima)}
    labels = np.array([order.get(root, -1) for root in expected]).reshape(shape)
    labels[height == 0] = -1
    np.testing.assert_array_equal(numbered, labels)

    levels: dict[tuple[int, int], int] = {}
    for place in np.ndindex(shape):
        for other in neighbours(place, shape):
            a, b = int(labels[place]), int(labels[other])
            if 0 <= a < b:
                level = min(int(height[place]), int(height[other]))
                levels[a, b] = max(level, levels.get((a, b), 0))
    first, second, level = find_saddles(numbered, height)
    assert dict(zip(zip(first.tolist(), second.tolist(), strict=True), level.tolist(), strict=True)) == levels
    assert len(first) == len(levels)
