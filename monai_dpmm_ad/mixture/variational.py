# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The variational posterior as a function of statistics, and the one ELBO.

Mean field: q(α) Π_k q(v_k) Π_k q(θ_k) Π_n q(z_n). Given the statistics every other factor has its optimum in closed
form, so statistics and the rate of q(α) are the whole state, whichever optimiser moves them:

    ELBO = Σ_nk r_nk (E[log π_k] + E[log p(y_n | θ_k)]) + H[r] − KL(q(v, α)) − Σ_k KL(q(θ_k))

With r at its optimum the first two terms are Σ_n log Σ_k exp(E[log π_k] + E[log p(y_n | θ_k)]), the evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import DataScale, Family
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.sticks import (
    Sticks,
    build_sticks,
    compute_log_weights,
    compute_sticks_kl,
    update_alpha_rate,
)

__all__ = [
    "Factors",
    "MixtureState",
    "Prior",
    "compute_elbo",
    "compute_weighted_log_prob",
    "normalise",
    "reduce_log_prob",
    "weigh",
]


class MixtureState(NamedTuple):
    """All that the optimisers move.

    Args:
        statistics: expected statistics, scaled to the data set.
        alpha_rate: 0-dim, w_2 of q(α).
        num_seen: 0-dim, how many data natural gradients have seen, the initial sample among them.
    """

    statistics: Statistics
    alpha_rate: Tensor
    num_seen: Tensor


class Factors(NamedTuple):
    """The factors that follow from a state.

    Args:
        sticks: q(v) and q(α).
        params: q(θ), a named tuple of the family.
        log_weights: (K,), E[log π_k].
        coefficients: E[log p(y | θ_k)], float64.
        kl: 0-dim, KL(q(v, α)) + Σ_k KL(q(θ_k)), nats.
    """

    sticks: Sticks
    params: Any
    log_weights: Tensor
    coefficients: Any
    kl: Tensor


class Prior(NamedTuple):
    """The priors and the likelihood.

    Args:
        family: the component likelihood.
        scale: mean and variance of the data.
        alpha_shape: 0-dim, s_1.
        alpha_rate: 0-dim, s_2.
    """

    family: Family
    scale: DataScale
    alpha_shape: Tensor
    alpha_rate: Tensor

    def build(self, state: MixtureState) -> Factors:
        """Compute every factor from a state."""
        counts = state.statistics.counts
        sticks = build_sticks(counts, self.alpha_shape, state.alpha_rate)
        params = self.family.build_posterior(self.scale, counts, state.statistics.sums)
        coefficients = self.family.compute_expected_coefficients(self.scale, params)
        kl = compute_sticks_kl(sticks, self.alpha_shape, self.alpha_rate)
        kl = kl + self.family.compute_kl(self.scale, params).sum()
        return Factors(sticks, params, compute_log_weights(sticks), coefficients, kl)

    def update(self, statistics: Statistics, state: MixtureState) -> MixtureState:
        """Give a state new statistics, moving q(α) along."""
        rate = update_alpha_rate(statistics.counts, self.alpha_shape, self.alpha_rate, state.alpha_rate)
        return state._replace(statistics=statistics, alpha_rate=rate)


def weigh(factors: Factors, dtype: torch.dtype) -> Any:
    """Get the coefficients of E[log π_k] + E[log p(y | θ_k)] in a dtype."""
    coefficients = factors.coefficients
    return coefficients._replace(offset=coefficients.offset + factors.log_weights).to(dtype)


def compute_elbo(prior: Prior, statistics: Statistics, factors: Factors) -> Tensor:
    """Compute the ELBO of the data that the statistics describe.

    Args:
        prior: priors and likelihood.
        statistics: of the data, under any q(z), its entropy included.
        factors: the other factors; they need not have been made from these statistics.

    Returns:
        0-dim, nats.
    """
    likelihood = prior.family.compute_likelihood(statistics, factors.coefficients)
    return (statistics.counts * factors.log_weights + likelihood + statistics.entropy).sum() - factors.kl


def compute_weighted_log_prob(family: Family, coefficients: Any, scale: DataScale, x: Tensor) -> Tensor:
    """Compute log weight plus log density of each component, the quantity behind score, responsibilities and ELBO.

    Args:
        family: the component likelihood.
        coefficients: of the features, log weights included in the offset, in the dtype of ``x``.
        scale: the coordinates, in the dtype of ``x``.
        x: (n, D).

    Returns:
        (n, K), nats.
    """
    return family.compute_log_prob(family.make_features(x, scale), coefficients)


def reduce_log_prob(
    prior: Prior, factors: Factors, x: Tensor, chunk_size: int, reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """Reduce E[log π_k] + E[log p(y_n | θ_k)] over components, a chunk of rows at a time.

    Args:
        prior: priors and likelihood.
        factors: the global factors.
        x: (n, D).
        chunk_size: rows at a time.
        reduce: (rows, K) to (rows,).

    Returns:
        (n,).
    """
    coefficients = weigh(factors, x.dtype)
    scale = prior.scale.to(x.dtype)
    return torch.cat(
        [reduce(compute_weighted_log_prob(prior.family, coefficients, scale, rows)) for rows in x.split(chunk_size)]
    )


def normalise(log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """Compute responsibilities and log Σ_k exp of weighted log probabilities.

    The sum is the largest term less the log of its own responsibility. So there is one exponential per entry, that of
    softmax, which is ten times as fast on a CPU as the one of logsumexp where most entries underflow.

    Args:
        log_prob: (n, K).

    Returns:
        responsibilities (n, K) and log sums (n,).
    """
    # Laid out by column, as short rows are: a softmax along short rows is ten times as slow as one down columns.
    resp = log_prob.softmax(1) if log_prob.stride(1) == 1 else log_prob.T.softmax(0).T
    return resp, log_prob.amax(1) - resp.amax(1).log()
