# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A distribution of nonnegative scores as a fixed number of quantiles, dense in the upper tail."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_dpmm_ad.ops.histogram import FINE, SparseSum

__all__ = ["LEVELS", "TOLERANCE", "find_knots", "find_quantile", "interpolate_shares"]

TOLERANCE = 1e-12  # rounding of shares
_NUM = 2048


def _make_levels() -> np.ndarray:
    """Cumulative shares at which quantiles are kept: evenly spaced, and log-spaced towards 1 (tail down to 1e-6)."""
    tails = np.concatenate([np.linspace(0, 1, _NUM + 1), np.logspace(-6, 0, _NUM)])
    return 1 - np.unique(tails)[::-1]


LEVELS = _make_levels()


def find_knots(histogram: SparseSum) -> np.ndarray:
    """Find the quantiles of a histogram.

    Args:
        histogram: of width 1, keys of :data:`~monai_dpmm_ad.ops.histogram.FINE`, not empty.

    Returns:
        float32, one knot per level: the smallest upper edge of a bin up to which at least that share lies, so a
        knot is never below the true quantile, and above it by at most the width of a bin (relative 1.5e-5).
    """
    keys, shares = histogram.result()
    total = np.cumsum(shares[:, 0])
    bins = np.searchsorted(total, LEVELS * total[-1] * (1 - TOLERANCE), side="left")
    return FINE.upper(keys[np.minimum(bins, len(keys) - 1)])


def find_quantile(knots: Tensor, level: float) -> float:
    """Return the first knot at or above ``level`` (0 … 1): never below the true quantile."""
    return float(knots[int(np.searchsorted(LEVELS, level - TOLERANCE, side="left"))])


def interpolate_shares(knots: Tensor, scores: Tensor) -> Tensor:
    """Compute the share of the distribution at or below each score, linear between knots.

    Args:
        knots: (len(LEVELS),) ascending, float32.
        scores: any shape, float32, same device.

    Returns:
        float32 in [0, 1], same shape.
    """
    levels = torch.from_numpy(LEVELS).to(knots)
    last = len(knots) - 1
    above = torch.searchsorted(knots, scores.contiguous(), right=True).clamp(max=last)
    below = (above - 1).clamp(min=0)
    width = knots[above] - knots[below]
    part = torch.where(width > 0, (scores - knots[below]) / width.clamp(min=torch.finfo(torch.float32).tiny), 0)
    shares = levels[below] + part.clamp(0, 1) * (levels[above] - levels[below])
    return torch.where(scores >= knots[last], 1.0, shares)
