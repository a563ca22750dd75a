# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Stochastic natural gradients: each batch's statistics, scaled to the data set, mixed into the running ones."""

from __future__ import annotations

from torch import Tensor

from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import Model, State

__all__ = ["compute_learning_rate", "take_natural_step"]


def compute_learning_rate(step: Tensor, delay: float, forgetting: float) -> Tensor:
    """Compute ρ_t = (t + τ)^−κ.

    Args:
        step: 0-dim, t, the number of steps taken.
        delay: τ, at least 1.
        forgetting: κ, in (0.5, 1].

    Returns:
        0-dim, in (0, 1]; on the device of ``step``.
    """
    return (step + delay) ** -forgetting


def take_natural_step(model: Model, state: State, batch: Statistics, num_data: float | Tensor, rate: Tensor) -> State:
    """Move the state along the natural gradient of the ELBO that one batch estimates.

    The natural parameters of q(θ_k) and q(v_k) are the prior's plus the statistics, so mixing those is the step
    η ← (1 − ρ) η + ρ (η_0 + N/|batch| · t(batch)).

    Args:
        model: priors and likelihood.
        state: the present state.
        batch: statistics of a batch under the present state, not scaled.
        num_data: N, the size of the data set.
        rate: 0-dim, ρ.

    Returns:
        the next state.

    Reference:
        Hoffman, Blei, Wang and Paisley 2013, Stochastic variational inference, figure 4.
    """
    scaled = batch.scale(num_data / batch.size)
    return model.update(state.statistics.mix(scaled, rate), state.alpha_rate)
