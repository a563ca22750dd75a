# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Slow oracles of the mixture: densities and statistics written out with N×K×D tensors, and the paper's optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["OnlineMAPEM", "compute_expected_log_prob", "compute_statistics"]


def compute_expected_log_prob(
    x: Tensor, mean: Tensor, kappa: Tensor, shape: Tensor, rate: Tensor, noise: Tensor
) -> Tensor:
    """E[log N(x | μ, λ)] under Normal-Gamma factors, dimension by dimension.

    Args:
        x: (N, D).
        mean: (K, D).
        kappa: (K,).
        shape: (K,).
        rate: (K, D).
        noise: (D,), each datum's own variance.

    Returns:
        (N, K).
    """
    precision = shape[:, None] / rate
    log_precision = torch.digamma(shape)[:, None] - rate.log()
    squared = (x[:, None, :] - mean).square() + noise
    terms = log_precision - math.log(2 * math.pi) - 1.0 / kappa[:, None] - precision * squared
    return 0.5 * terms.sum(-1)


def compute_statistics(x: Tensor, resp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (K,), Σ r x² (K, D) and Σ r x (K, D)."""
    weighted = resp[:, :, None] * x[:, None, :]
    return resp.sum(0), (weighted * x[:, None, :]).sum(0), weighted.sum(0)


class OnlineMAPEM:
    """The paper's inference as methods.md describes it: online MAP-EM for a truncated DP mixture, all tensors N×K×D.

    Sufficient statistics per datum are an exponential moving average over batches; weights come from stick-breaking
    MAP estimates under Beta(1, 1), means and variances from the moments with a weak prior.

    Args:
        centres: (K, D), where the means start.
        variance: (D,), where the variances start, and the prior's variance.
        rate: of the moving average.
        prior_count: pseudo-data of the variance prior, as a share of the data.
    """

    def __init__(self, centres: Tensor, variance: Tensor, rate: float = 0.2, prior_count: float = 1e-4) -> None:
        num_components = centres.shape[0]
        self.rate = rate
        self.prior_count = prior_count
        self.prior_variance = variance
        self.counts = torch.full((num_components,), 1.0 / num_components)
        self.first = self.counts[:, None] * centres
        self.second = self.counts[:, None] * (centres.square() + variance)

    def compute_log_joint(self, x: Tensor) -> Tensor:
        """Log weight plus log density, (N, K), through an N×K×D tensor."""
        share = (self.counts + 1e-10)[:, None]
        mean = self.first / share
        scatter = (self.second / share - mean.square()).clamp(min=1e-8)
        variance = (share * scatter + self.prior_count * self.prior_variance) / (share + self.prior_count)
        rest = self.counts.flip(0).cumsum(0).flip(0)
        stick = (self.counts / (rest + 1e-10)).clamp(1e-10, 1.0 - 1e-7)
        stick[-1] = 1.0 - 1e-7
        log_weights = stick.log() + torch.cat([stick.new_zeros(1), (1.0 - stick[:-1]).log().cumsum(0)])
        terms = variance.log() + math.log(2 * math.pi) + (x[:, None, :] - mean).square() / variance
        return log_weights - 0.5 * terms.sum(-1)

    def partial_fit(self, x: Tensor) -> None:
        """One step of the moving average on a batch (n, D)."""
        resp = self.compute_log_joint(x).softmax(1)
        counts, second, first = compute_statistics(x, resp)
        for name, found in [("counts", counts), ("second", second), ("first", first)]:
            setattr(self, name, torch.lerp(getattr(self, name), found / x.shape[0], self.rate))

    def fit(self, batches: Iterable[Tensor]) -> OnlineMAPEM:
        """One pass."""
        for batch in batches:
            self.partial_fit(batch)
        return self

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, (N,)."""
        return torch.cat([self.compute_log_joint(rows).logsumexp(1) for rows in x.split(64)])
