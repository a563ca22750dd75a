# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The variational posterior as a function of statistics, the expectation step, and the one ELBO.

Mean field: q(α) Π_k q(v_k) Π_k q(θ_k) Π_n q(z_n). Given the statistics every other factor has its optimum in closed
form, so statistics and the rate of q(α) are the whole state, whichever optimiser moves them:

    ELBO = Σ_nk r_nk (E[log π_k] + E[log p(y_n | θ_k)]) + H[r] − KL(q(v, α)) − Σ_k KL(q(θ_k))

With r at its optimum the first two terms are Σ_n log Σ_k exp(E[log π_k] + E[log p(y_n | θ_k)]), the evidence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.family import DataScale, Family
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.sticks import (
    Sticks,
    build_sticks,
    compute_log_weights,
    compute_sticks_kl,
    update_alpha_rate,
)

__all__ = [
    "LocalStep",
    "Model",
    "State",
    "Variational",
    "compute_elbo",
    "compute_weighted_log_prob",
    "normalise",
    "run_local_step",
]


class State(NamedTuple):
    """All that the optimisers move.

    Args:
        statistics: expected statistics, scaled to the data set.
        alpha_rate: 0-dim, w_2 of q(α).
    """

    statistics: Statistics
    alpha_rate: Tensor


class Variational(NamedTuple):
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


class LocalStep(NamedTuple):
    """What the expectation step finds in a batch.

    Args:
        statistics: expected statistics, not scaled.
        evidence: 0-dim float64, Σ_n log Σ_k exp(E[log π_k] + E[log p(y_n | θ_k)]), nats.
        group_entropy: (C,), H of the summed responsibilities of each group of components, nats; C = 0 unless asked.
    """

    statistics: Statistics
    evidence: Tensor
    group_entropy: Tensor

    def scale(self, factor: float | Tensor) -> LocalStep:
        """Multiply everything by a factor."""
        return LocalStep(self.statistics.scale(factor), self.evidence * factor, self.group_entropy * factor)


class Model(NamedTuple):
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

    def build(self, state: State) -> Variational:
        """Compute every factor from a state."""
        counts = state.statistics.counts
        sticks = build_sticks(counts, self.alpha_shape, state.alpha_rate)
        params = self.family.build_posterior(self.scale, counts, state.statistics.sums)
        coefficients = self.family.compute_expected_coefficients(self.scale, params)
        kl = compute_sticks_kl(sticks, self.alpha_shape, self.alpha_rate)
        kl = kl + self.family.compute_kl(self.scale, params).sum()
        return Variational(sticks, params, compute_log_weights(sticks), coefficients, kl)

    def update(self, statistics: Statistics, alpha_rate: Tensor) -> State:
        """Make the state of new statistics, moving q(α) along."""
        return State(statistics, update_alpha_rate(statistics.counts, self.alpha_shape, self.alpha_rate, alpha_rate))


def compute_elbo(model: Model, statistics: Statistics, variational: Variational) -> Tensor:
    """Compute the ELBO of the data that the statistics describe.

    Args:
        model: priors and likelihood.
        statistics: of the data, under any q(z), its entropy included.
        variational: the other factors; they need not have been made from these statistics.

    Returns:
        0-dim, nats.
    """
    likelihood = model.family.compute_likelihood(statistics, variational.coefficients)
    return (statistics.counts * variational.log_weights + likelihood + statistics.entropy).sum() - variational.kl


def compute_weighted_log_prob(
    family: Family, coefficients: Any, shift: Tensor, x: Tensor, features: Tensor | None = None
) -> Tensor:
    """Compute log weight plus log density of each component, the quantity behind score, responsibilities and ELBO.

    Args:
        family: the component likelihood.
        coefficients: of the features, log weights included in the offset, in the dtype of ``x``.
        shift: (D,), the data mean in the dtype of ``x``.
        x: (n, D).
        features: (≥ n, num_written) workspace, overwritten.

    Returns:
        (n, K), nats.
    """
    if features is None:
        features = x.new_empty(x.shape[0], family.num_written)
    features = features[: x.shape[0]]
    family.write_features(x, shift, features)
    return family.compute_log_prob(features, coefficients)


def normalise(log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """Compute responsibilities and log Σ_k exp of weighted log probabilities.

    The sum is the largest term less the log of its own responsibility. So there is one exponential per entry, that of
    softmax, which is ten times as fast on a CPU as the one of logsumexp where most entries underflow.

    Args:
        log_prob: (n, K).

    Returns:
        responsibilities (n, K) and log sums (n,).
    """
    resp = log_prob.softmax(1)
    return resp, log_prob.amax(1) - resp.amax(1).log()


def run_local_step(
    model: Model, variational: Variational, x: Tensor, chunk_size: int, groups: Tensor | None = None
) -> LocalStep:
    """Find the optimal q(z) of a batch and its expected statistics.

    Args:
        model: priors and likelihood.
        variational: the global factors.
        x: (n, D).
        chunk_size: rows at a time; workspace is chunk × (F + K).
        groups: (C, K) bool, groups of components whose merge is to be measured.

    Returns:
        statistics, evidence and, for each group, the entropy of its joint assignment.
    """
    coefficients = variational.coefficients
    coefficients = coefficients._replace(offset=coefficients.offset + variational.log_weights).to(x.dtype)
    shift = model.scale.mean.to(x.dtype)
    features = x.new_empty(min(chunk_size, x.shape[0]), model.family.num_written)
    counts = torch.zeros_like(variational.log_weights)
    sums = counts.new_zeros(counts.shape[0], model.family.num_features)
    evidence = torch.zeros_like(counts)
    group_entropy = counts.new_zeros(0 if groups is None else groups.shape[0])
    for rows in x.split(chunk_size) if x.shape[0] else ():
        log_prob = compute_weighted_log_prob(model.family, coefficients, shift, rows, features)
        resp, log_norm = normalise(log_prob)
        evidence += resp.T @ log_norm
        counts += resp.sum(0)
        model.family.sum_features(resp, features[: rows.shape[0]], sums)
        if groups is not None:
            group_entropy += _measure_groups(resp, groups)
    statistics = Statistics(counts, sums, torch.zeros_like(counts), torch.full_like(counts[0], x.shape[0]))
    # −Σ r log r = Σ r (evidence − log joint): no pass over r log r.
    likelihood = model.family.compute_likelihood(statistics, variational.coefficients)
    entropy = evidence - counts * variational.log_weights - likelihood
    return LocalStep(statistics._replace(entropy=entropy), evidence.sum(), group_entropy)


def _measure_groups(resp: Tensor, groups: Tensor) -> Tensor:
    """−Σ_n r_ng log r_ng with r_ng = Σ_{k in g} r_nk, for ``resp`` (n, K) and groups (C, K): (C,)."""
    joint = (resp @ groups.to(resp.dtype).T).clamp_(max=1.0)
    return torch.special.entr(joint).sum(0, dtype=torch.float64)
