# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Stochastic natural gradients: each batch's statistics, scaled to the data set, mixed into the running ones."""

from __future__ import annotations

from torch import Tensor

from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import Model, State

__all__ = ["compute_learning_rate", "take_natural_step"]


def compute_learning_rate(num_seen: Tensor, batch_size: Tensor, forgetting: float) -> Tensor:
    """Compute ρ = (data seen, this batch's included / its size)^−κ.

    For batches of one size this is the usual (t + τ)^−κ, with τ − 1 the size of the initial sample in batches: what
    initialisation learnt weighs as much as if it had been seen in batches. A small first batch must not wipe it out.

    Args:
        num_seen: 0-dim, how many data were seen before, the initial sample among them.
        batch_size: 0-dim.
        forgetting: κ, in (0.5, 1].

    Returns:
        0-dim, in (0, 1].
    """
    return (1.0 + num_seen / batch_size) ** -forgetting


def take_natural_step(
    model: Model,
    state: State,
    batch: Statistics,
    num_data: float | Tensor,
    rate: Tensor,
    kept: Statistics | None = None,
) -> State:
    """Move the state along the natural gradient of the ELBO that one batch estimates.

    The natural parameters of q(θ_k) and q(v_k) are the prior's plus the statistics, so mixing those is the step
    η ← (1 − ρ) η + ρ (η_0 + N/|batch| · t(batch)).

    Args:
        model: priors and likelihood.
        state: the present state.
        batch: statistics of a batch under the present state, not scaled.
        num_data: N, the size of the data set.
        rate: 0-dim, ρ.
        kept: statistics of data that the batches are not drawn from: part of the state, and left as they are. N does
            not count them.

    Returns:
        the next state.

    Reference:
        Hoffman, Blei, Wang and Paisley 2013, Stochastic variational inference, figure 4.
    """
    scaled = batch.scale(num_data / batch.size)
    if kept is None:
        return model.update(state.statistics.mix(scaled, rate), state.alpha_rate)
    return model.update(kept + (state.statistics - kept).mix(scaled, rate), state.alpha_rate)
