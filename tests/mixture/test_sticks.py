# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Stick-breaking weights."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Beta, Gamma, kl_divergence

from monai_dpmm_ad.mixture.sticks import (
    build_sticks,
    compute_gamma_kl,
    compute_log_weights,
    compute_sticks_kl,
    compute_weights,
    update_alpha_rate,
)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


COUNTS = tensor(50.0, 20.0, 5.0, 0.0, 0.0)
SHAPE, RATE = torch.tensor(2.0).double(), torch.tensor(3.0).double()


def test_weights_sum_to_one():
    assert compute_weights(build_sticks(COUNTS, SHAPE, RATE)).sum().item() == pytest.approx(1.0)


def test_one_component_has_all_weight():
    sticks = build_sticks(tensor(10.0), SHAPE, RATE)
    assert compute_weights(sticks).tolist() == [1.0]
    assert compute_log_weights(sticks).tolist() == [0.0]


def test_expectations_agree_with_samples():
    torch.manual_seed(0)
    sticks = build_sticks(COUNTS, SHAPE, RATE)
    v = torch.cat([Beta(sticks.first, sticks.second).sample((200_000,)), torch.ones(200_000, 1).double()], dim=1)
    weights = v * torch.cat([torch.ones(200_000, 1).double(), (1 - v[:, :-1]).cumprod(1)], dim=1)
    torch.testing.assert_close(weights.mean(0), compute_weights(sticks), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(weights.log().mean(0), compute_log_weights(sticks), rtol=0.01, atol=0.02)


def test_kl_agrees_with_samples_of_alpha():
    torch.manual_seed(0)
    sticks = build_sticks(COUNTS, SHAPE, RATE)
    q_alpha = Gamma(sticks.alpha_shape, sticks.alpha_rate)
    alpha = q_alpha.sample((50_000, 1))
    over_v = kl_divergence(Beta(sticks.first, sticks.second), Beta(torch.ones_like(alpha), alpha)).sum(1).mean()
    expected = over_v + kl_divergence(q_alpha, Gamma(SHAPE, RATE))
    torch.testing.assert_close(compute_sticks_kl(sticks, SHAPE, RATE), expected, rtol=0.01, atol=0.01)


def test_gamma_kl_agrees_with_torch():
    expected = kl_divergence(Gamma(tensor(2.5, 7.0), tensor(0.3, 4.0)), Gamma(tensor(1.0, 9.0), tensor(2.0, 2.0)))
    found = compute_gamma_kl(tensor(2.5, 7.0), tensor(0.3, 4.0), tensor(1.0, 9.0), tensor(2.0, 2.0))
    torch.testing.assert_close(found, expected)


def compute_bound(counts: torch.Tensor, rate: torch.Tensor) -> float:
    """The part of the ELBO that depends on sticks and α."""
    sticks = build_sticks(counts, SHAPE, rate)
    return float((counts * compute_log_weights(sticks)).sum() - compute_sticks_kl(sticks, SHAPE, RATE))


def test_alpha_update_raises_the_bound():
    rate = torch.tensor(0.5).double()
    before = compute_bound(COUNTS, rate)
    for _ in range(5):
        rate = update_alpha_rate(COUNTS, SHAPE, RATE, rate)
        after = compute_bound(COUNTS, rate)
        assert after >= before - 1e-9
        before = after


def test_more_components_in_use_mean_a_larger_alpha():
    few, many = tensor(100.0, *[0.0] * 9), tensor(*[10.0] * 10)
    rate = torch.tensor(1.0).double()
    assert update_alpha_rate(many, SHAPE, RATE, rate) < update_alpha_rate(few, SHAPE, RATE, rate)


def test_falling_order_costs_least():
    assert compute_bound(COUNTS, RATE) > compute_bound(COUNTS.flip(0), RATE)
