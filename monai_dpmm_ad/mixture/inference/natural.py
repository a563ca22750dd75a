# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Stochastic natural gradients: each batch's statistics, scaled to the data set, mixed into the running ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.inference.base import Batch, Inference, keep_if_finite, measure_batch
from monai_dpmm_ad.mixture.moves.novelty import admit_novelty
from monai_dpmm_ad.mixture.moves.schedule import MoveSchedule
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import Factors, MixtureState, Prior

__all__ = ["NaturalInference", "compute_learning_rate", "take_natural_step"]


class NaturalInference(Inference):
    """Stochastic natural gradients. In an update the statistics of former data are kept beside."""

    name = "natural"

    def __init__(self, hyper: Hyperparameters) -> None:
        super().__init__(hyper)
        self._schedule = MoveSchedule()
        self._kept: Statistics | None = None

    def step(self, prior: Prior, state: MixtureState, factors: Factors, batch: Batch) -> tuple[MixtureState, Tensor]:
        """Mix the batch's statistics into the running ones; the ELBO is the batch's estimate, before the step."""
        state, factors = self._schedule.start_pass(prior, state, factors)
        found = measure_batch(prior, factors, batch, screened=True)
        size = found.statistics.size
        rate = compute_learning_rate(state.num_seen, size, self.hyper.forgetting)
        moved = take_natural_step(prior, state, found.statistics, batch.num_data, rate, self._kept)
        moved = moved._replace(num_seen=state.num_seen + size)
        total = batch.num_data if self._kept is None else batch.num_data + self._kept.size
        return keep_if_finite(found, moved, state), found.evidence / size - factors.kl / total

    def finish_epoch(
        self,
        prior: Prior,
        state: MixtureState,
        sample: Tensor | None,
        chunk_size: int,
        generator: torch.Generator,
        limit: int,
    ) -> tuple[MixtureState, int]:
        """Merge and propose splits; in an update, open components for what is new."""
        sample = self.require(sample)
        if self._kept is None:
            return self._schedule.finish_pass(prior, state, sample, chunk_size, generator, limit)
        state, self._kept, accepted = admit_novelty(prior, state, self._kept, sample, chunk_size, generator, limit)
        return state, accepted

    def start_update(self, state: MixtureState) -> MixtureState:
        """Keep the statistics of the former data, and begin to count anew."""
        self._schedule = MoveSchedule()
        self._kept = Statistics(*(part.clone() for part in state.statistics))
        return state._replace(num_seen=torch.zeros_like(state.num_seen))

    def follow(self, move: Callable[[Tensor], Tensor]) -> NaturalInference:
        """Take the former data's statistics along to another device; splits that no pass has settled are left."""
        self._schedule = MoveSchedule()
        if self._kept is not None:
            self._kept = Statistics(*(move(part) for part in self._kept))
        return self


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
    prior: Prior,
    state: MixtureState,
    batch: Statistics,
    num_data: float | Tensor,
    rate: Tensor,
    kept: Statistics | None = None,
) -> MixtureState:
    """Move the state along the natural gradient of the ELBO that one batch estimates.

    The natural parameters of q(θ_k) and q(v_k) are the prior's plus the statistics, so mixing those is the step
    η ← (1 − ρ) η + ρ (η_0 + N/|batch| · t(batch)).

    Args:
        prior: priors and likelihood.
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
        return prior.update(state.statistics.mix(scaled, rate), state)
    return prior.update(kept + (state.statistics - kept).mix(scaled, rate), state)
