# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""log I_ν and its ratio, against mpmath and scipy."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from scipy.special import ive

from monai_dpmm_ad.mixture.families.bessel import compute_bessel_ratio, compute_log_bessel

ORDERS = [0.0, 0.5, 1.0, 3.5, 14.5, 15.0, 95.0, 191.0, 500.0, 1000.0]


def compute_reference(order: float, x: float) -> float:
    """log I_ν(x): mpmath where its series is short, scipy's scaled function beyond."""
    if x < 5e3:
        return float(mpmath.log(mpmath.besseli(order, x)))
    return math.log(ive(order, x)) + x


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("x", [1e-3, 1.0, 30.0, 300.0, 3e3, 1e4, 1e5])
def test_agrees_with_reference(order, x):
    value = float(compute_log_bessel(order, torch.tensor(x, dtype=torch.float64)))
    expected = compute_reference(order, x)
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-7)  # of I_ν: 1e-7 relative


@pytest.mark.parametrize("order", ORDERS)
def test_ratio_agrees_with_reference(order):
    for x in [1e-3, 1.0, 30.0, 3e3, 1e5]:
        ratio = float(compute_bessel_ratio(order, torch.tensor(x, dtype=torch.float64)))
        expected = math.exp(compute_reference(order + 1.0, x) - compute_reference(order, x))
        assert ratio == pytest.approx(expected, rel=1e-6)


def test_half_order_is_the_hyperbolic_sine():
    x = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(compute_log_bessel(0.5, x), (torch.sinh(x) * (2 / (math.pi * x)).sqrt()).log())


def test_ratio_is_between_zero_and_one_and_rises():
    ratio = compute_bessel_ratio(191.0, torch.logspace(-6, 6, 200, dtype=torch.float64))
    assert ratio.min() > 0.0
    assert ratio.max() < 1.0
    assert (ratio.diff() > 0.0).all()


def test_zero_is_a_limit_and_no_nan():
    zero = torch.zeros(1, dtype=torch.float64)
    assert torch.isfinite(compute_log_bessel(0.0, zero)).all()
    assert compute_bessel_ratio(10.0, zero).item() < 1e-20


def test_negative_order_is_refused():
    with pytest.raises(ValueError, match=r"`order` must not be negative, got -1"):
        compute_log_bessel(-1.0, torch.ones(1))
