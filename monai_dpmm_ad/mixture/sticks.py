# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Truncated stick-breaking weights with a Gamma prior on the concentration α.

    v_k ~ Beta(1, α) for k < K, v_K = 1      π_k = v_k Π_{j<k} (1 − v_j)      α ~ Gamma(s_1, s_2)

with q(v_k) = Beta(γ_k1, γ_k2) and q(α) = Gamma(w_1, w_2). All tensors are float64.

Reference:
    Blei and Jordan 2006, Variational inference for Dirichlet process mixtures, section 3 and appendix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Sticks",
    "build_sticks",
    "compute_gamma_kl",
    "compute_log_weights",
    "compute_sticks_kl",
    "compute_weights",
    "update_alpha_rate",
]

ALPHA_ITERATIONS = 3  # α and the sticks depend on each other; three rounds move α to within a percent


class Sticks(NamedTuple):
    """The variational factors of the sticks and of α.

    Args:
        first: (K−1,), γ_k1.
        second: (K−1,), γ_k2.
        alpha_shape: 0-dim, w_1.
        alpha_rate: 0-dim, w_2.
    """

    first: Tensor
    second: Tensor
    alpha_shape: Tensor
    alpha_rate: Tensor


def build_sticks(counts: Tensor, alpha_shape: Tensor, alpha_rate: Tensor) -> Sticks:
    """Compute the optimal sticks: γ_k1 = 1 + N_k, γ_k2 = E[α] + Σ_{j>k} N_j.

    Args:
        counts: (K,), expected number of data N_k of each component.
        alpha_shape: 0-dim, s_1 of the prior.
        alpha_rate: 0-dim, w_2 of q(α).

    Returns:
        the factors of the K−1 free sticks and of α.
    """
    shape = alpha_shape + (counts.shape[0] - 1)
    after = counts.flip(0).cumsum(0).flip(0)[1:]
    return Sticks(1.0 + counts[:-1], shape / alpha_rate + after, shape, alpha_rate)


def update_alpha_rate(counts: Tensor, prior_shape: Tensor, prior_rate: Tensor, alpha_rate: Tensor) -> Tensor:
    """Compute w_2 = s_2 − Σ_k E[log(1 − v_k)], alternating with the sticks that depend on it.

    Args:
        counts: (K,), N_k.
        prior_shape: 0-dim, s_1.
        prior_rate: 0-dim, s_2.
        alpha_rate: 0-dim, the present w_2.

    Returns:
        0-dim, the new w_2; with the sticks that `build_sticks` makes of it the ELBO has not decreased.
    """
    for _ in range(ALPHA_ITERATIONS):
        alpha_rate = prior_rate - _expect_log_sticks(build_sticks(counts, prior_shape, alpha_rate))[1].sum()
    return alpha_rate


def compute_log_weights(sticks: Sticks) -> Tensor:
    """Compute E[log π_k] = E[log v_k] + Σ_{j<k} E[log(1 − v_j)].

    Returns:
        (K,).
    """
    log_v, log_rest = _expect_log_sticks(sticks)
    zero = log_v.new_zeros(1)
    return torch.cat([log_v, zero]) + torch.cat([zero, log_rest.cumsum(0)])


def compute_weights(sticks: Sticks) -> Tensor:
    """Compute E[π_k].

    Returns:
        (K,), sums to one.
    """
    v = sticks.first / (sticks.first + sticks.second)
    one = v.new_ones(1)
    return torch.cat([v, one]) * torch.cat([one, (1.0 - v).cumprod(0)])


def compute_sticks_kl(sticks: Sticks, prior_shape: Tensor, prior_rate: Tensor) -> Tensor:
    """Compute E_q(α)[Σ_k KL(q(v_k) ‖ Beta(1, α))] + KL(q(α) ‖ Gamma(s_1, s_2)).

    Returns:
        0-dim, nats.
    """
    first, second, shape, rate = sticks
    log_v, log_rest = _expect_log_sticks(sticks)
    log_beta = torch.lgamma(first) + torch.lgamma(second) - torch.lgamma(first + second)
    log_alpha = torch.digamma(shape) - rate.log()
    negative_entropy = (first - 1.0) * log_v + (second - 1.0) * log_rest - log_beta
    cross = log_alpha + (shape / rate - 1.0) * log_rest
    return (negative_entropy - cross).sum() + compute_gamma_kl(shape, rate, prior_shape, prior_rate)


def compute_gamma_kl(shape: Tensor, rate: Tensor, prior_shape: Tensor, prior_rate: Tensor) -> Tensor:
    """Compute KL(Gamma(shape, rate) ‖ Gamma(prior_shape, prior_rate)), elementwise.

    Returns:
        nats, of the arguments' broadcast shape.
    """
    return (
        (shape - prior_shape) * torch.digamma(shape)
        - torch.lgamma(shape)
        + torch.lgamma(prior_shape)
        + prior_shape * (rate.log() - prior_rate.log())
        + shape * (prior_rate - rate) / rate
    )


def _expect_log_sticks(sticks: Sticks) -> tuple[Tensor, Tensor]:
    """E[log v_k] and E[log(1 − v_k)], each (K−1,)."""
    total = torch.digamma(sticks.first + sticks.second)
    return torch.digamma(sticks.first) - total, torch.digamma(sticks.second) - total
