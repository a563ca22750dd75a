# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Quantiles of a histogram against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_dpmm_ad.calibration.quantiles import LEVELS, find_knots, find_quantile, interpolate_shares
from monai_dpmm_ad.ops.histogram import FINE, SparseSum, count_keys


@pytest.fixture(params=["continuous", "ties", "zeros"])
def values(request: pytest.FixtureRequest) -> np.ndarray:
    drawn = np.random.default_rng(0).gamma(2, 0.1, 20_000).astype(np.float32)
    if request.param == "ties":
        return np.ceil(drawn * 20) / np.float32(20)
    return np.where(drawn < 0.15, 0, drawn).astype(np.float32) if request.param == "zeros" else drawn


def _knots(values: np.ndarray) -> torch.Tensor:
    histogram = SparseSum(width=1)
    keys, counts = count_keys(FINE.keys(values))
    histogram.add(keys, counts[:, None])
    return torch.from_numpy(find_knots(histogram))


def test_levels_resolve_the_tail():
    assert (np.diff(LEVELS) > 0).all()
    assert (LEVELS[0], LEVELS[-1]) == (0.0, 1.0)
    tails = 1 - LEVELS[:-1]
    tails = tails[tails > 1.1e-6]
    assert np.max(tails[:-1] / tails[1:]) < 1.01


def test_knots_are_quantiles_rounded_up(values):
    knots = _knots(values).numpy()
    exact = np.sort(values)[np.maximum(np.ceil(LEVELS * values.size - 1e-6).astype(int) - 1, 0)]
    assert (knots >= exact).all()
    np.testing.assert_allclose(knots, exact, rtol=2e-5)
    for level in (0.3, 0.9, 0.9971):
        quantile = find_quantile(torch.from_numpy(knots), level)
        assert np.mean(values > quantile) <= 1 - level + 1e-9
        assert np.mean(values > quantile) >= (1 - level) * 0.98 - np.mean(values == np.quantile(values, level))


def test_shares_are_the_distribution_function(values):
    at = np.quantile(values, np.linspace(0.01, 0.999, 60)).astype(np.float32)
    shares = interpolate_shares(_knots(values), torch.from_numpy(at).reshape(6, 10))
    assert shares.shape == (6, 10)
    low = [np.mean(values < x * (1 - 1e-4)) for x in at]
    high = [np.mean(values <= x) for x in at]
    assert (shares.flatten().numpy() >= np.array(low) - 1e-3).all()
    assert (shares.flatten().numpy() <= np.array(high) + 1e-3).all()
    assert interpolate_shares(_knots(values), torch.tensor([1e9])).item() == 1.0
