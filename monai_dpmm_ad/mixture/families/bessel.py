# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The modified Bessel function of the first kind in logarithm, for high orders and arguments, as directions need it."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import zip_longest

import torch
from torch import Tensor

__all__ = ["compute_bessel_ratio", "compute_log_bessel"]

LEAST_ORDER = 15.0  # below it the expansion is coarser than 1e-8, and a recurrence comes down from above
NUM_TERMS = 7
LEAST_ARGUMENT = 1e-30  # stands for zero, whose logarithm there is not


def _make_debye_polynomials(num_terms: int) -> list[list[float]]:
    """Coefficients of u_0 … by the recurrence 9.3.10, u' = ½ t² (1 − t²) u' + ⅛ ∫ (1 − 5 t²) u, exactly."""
    polynomial = [Fraction(1)]
    polynomials = []
    for _ in range(num_terms):
        polynomials.append([float(c) for c in polynomial])
        grown = [Fraction(0)] * (len(polynomial) + 3)
        for power, c in enumerate(polynomial):
            grown[power + 1] += c * power / 2 + c / (8 * (power + 1))
            grown[power + 3] -= c * power / 2 + 5 * c / (8 * (power + 3))
        polynomial = grown
    return polynomials


DEBYE = _make_debye_polynomials(NUM_TERMS)


def compute_log_bessel(order: float, x: Tensor) -> Tensor:
    """Compute log I_ν(x).

    Args:
        order: ν ≥ 0.
        x: non-negative, float64.

    Returns:
        of the shape of ``x``; I_ν is exact to 1e-8 relative.

    Raises:
        ValueError: if ``order`` is negative.

    Reference:
        Abramowitz and Stegun, 9.7.7 with 9.3.9 and 9.3.10, the expansion that is uniform in x; 9.6.26, the recurrence
        that brings it to low orders.
    """
    return _compute_bessel(order, x)[0]


def compute_bessel_ratio(order: float, x: Tensor) -> Tensor:
    """Compute I_{ν+1}(x) / I_ν(x), in [0, 1).

    Args:
        order: ν ≥ 0.
        x: non-negative, float64.

    Returns:
        of the shape of ``x``.

    Raises:
        ValueError: if ``order`` is negative.
    """
    return _compute_bessel(order, x)[1]


def _compute_bessel(order: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """log I_ν(x) and I_{ν+1}(x)/I_ν(x)."""
    if order < 0.0:
        raise ValueError(f"`order` must not be negative, got {order}.")
    x = x.clamp(min=LEAST_ARGUMENT)
    lifts = max(0, math.ceil(LEAST_ORDER - order))
    top = order + lifts
    log_value = _expand_debye(top, x)
    ratio = (_expand_debye(top + 1.0, x) - log_value).exp()
    for lower in range(lifts - 1, -1, -1):
        # I_{μ−1} = (2μ/x) I_μ + I_{μ+1}, all terms positive: stable downwards.
        inverse = 2.0 * (order + lower + 1.0) / x + ratio
        log_value = log_value + inverse.log()
        ratio = 1.0 / inverse
    return log_value, ratio


def _expand_debye(order: float, x: Tensor) -> Tensor:
    """log I_ν(x) by the uniform expansion, for ν ≥ ``LEAST_ORDER``."""
    z = x / order
    root = torch.hypot(z, torch.ones_like(z))
    t = 1.0 / root
    eta = root + z.log() - torch.log1p(root)
    coefficients = [
        sum(row) for row in zip_longest(*([c / order**k for c in u] for k, u in enumerate(DEBYE)), fillvalue=0.0)
    ]
    series = torch.zeros_like(t)
    for c in reversed(coefficients):
        series = series * t + c
    return order * eta - 0.5 * (math.log(2.0 * math.pi * order) + root.log()) + series.log()
