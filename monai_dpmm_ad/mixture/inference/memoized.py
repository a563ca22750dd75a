# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Incremental variational Bayes: one cached statistic per shard, no learning rate, an ELBO that never decreases.

That is the ELBO of all data, which there is from the end of the first lap on: before, the statistics of a sample stand
for shards that have not come yet, and what is computed may fall as they come.

Reference:
    Neal and Hinton 1998, A view of the EM algorithm that justifies incremental variants; Hughes and Sudderth 2013,
    Memoized online variational inference for Dirichlet process mixture models, section 3. Here shards not yet seen
    are represented by their share of the statistics that initialisation made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.expectation import LocalStep
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.inference.base import Batch, Inference, keep_if_finite, measure_batch
from monai_dpmm_ad.mixture.moves.merges import (
    MergeTree,
    accept_merges,
    compute_merge_gains,
    merge_statistics,
    propose_merges,
    sort_components,
)
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import Factors, MixtureState, Prior, compute_elbo

__all__ = ["MemoizedInference"]


class MemoizedInference(Inference):
    """A cache of one statistic per shard; the global statistics are their sum.

    A *lap* is one pass over all shards. Merges are proposed at its start, measured during it, decided at its end.
    """

    name = "memoized"
    exact = True

    def __init__(self, hyper: Hyperparameters) -> None:
        super().__init__(hyper)
        self._initial: Statistics | None = None
        self._shards: dict[int, LocalStep] = {}
        self._fingerprints: dict[int, Tensor] = {}
        self._tree: MergeTree | None = None
        self._changed: Tensor | None = None

    def step(self, prior: Prior, state: MixtureState, factors: Factors, batch: Batch) -> tuple[MixtureState, Tensor]:
        """Replace a shard's part of the global statistics; the ELBO is the whole data set's, after the step.

        Raises:
            ValueError: if the batch does not say which shard it is.
        """
        # Dense: the ELBO must not fall by rounding either.
        found = measure_batch(prior, factors, batch, None if self._tree is None else self._tree.groups)
        if batch.shard is None:
            raise ValueError("`index` must say which batch this is for memoized inference, got None.")
        if self._initial is None:
            self._initial = state.statistics.scale(batch.num_data / state.statistics.size)
        old = self._exchange(found, batch.shard, batch.rows.sum(dtype=torch.float64))
        moved = prior.update(state.statistics - old + found.statistics, state)
        elbo = compute_elbo(prior, moved.statistics, prior.build(moved)) / batch.num_data
        return keep_if_finite(found, moved, state), elbo

    def finish_epoch(
        self,
        prior: Prior,
        state: MixtureState,
        sample: Tensor | None,
        chunk_size: int,
        generator: torch.Generator,
        limit: int,
    ) -> tuple[MixtureState, int]:
        """Decide the merges that the lap has measured, and propose those that the coming one measures.

        Before the first lap there is nothing to decide by.
        """
        if not self._shards:
            return state, 0
        state, accepted = self._finish_lap(prior, state)
        self._tree = propose_merges(prior, state)
        return state, accepted

    def settle(self, prior: Prior, state: MixtureState) -> MixtureState:
        """Add up the cache afresh."""
        return self._finish_lap(prior, state)[0] if self._shards else state

    def _exchange(self, found: LocalStep, index: int, fingerprint: Tensor) -> Statistics:
        """Cache a shard's step, and get what stood for the shard before; its fingerprint tells of other data."""
        assert self._initial is not None
        if index in self._shards:
            old = self._shards[index].statistics
            changed = (self._fingerprints[index] - fingerprint).abs() > 1e-6 * fingerprint.abs()
            self._changed = changed if self._changed is None else self._changed | changed
        else:
            old = self._initial.scale(found.statistics.size / self._initial.size)
        self._shards[index] = found
        self._fingerprints[index] = fingerprint
        return old

    def _finish_lap(self, prior: Prior, state: MixtureState) -> tuple[MixtureState, int]:
        """Add up the cache afresh, then accept merges by the exact change of the full-data ELBO.

        Raises:
            ValueError: if a shard held other data than in the lap before.
        """
        if self._changed is not None and bool(self._changed):
            raise ValueError(
                "`batches` must be the same in every epoch for memoized inference, got other data in one seen before. "
                "Turn shuffling off, or use natural inference."
            )
        state = prior.update(self._total(), state)
        if self._tree is None or not self._tree.children:
            return state, 0
        group_entropy = torch.stack([shard.group_entropy for shard in self._shards.values()]).sum(0)
        gains = compute_merge_gains(prior, state, self._tree.groups, group_entropy)
        state, accepted = accept_merges(
            prior, state, self._tree, gains, group_entropy, lambda s: float(self._evaluate(prior, s))
        )
        groups = self._tree.groups[accepted]
        if accepted:
            for index, shard in self._shards.items():
                merged = merge_statistics(shard.statistics, groups, shard.group_entropy[accepted])
                self._shards[index] = shard._replace(statistics=merged)
        self._tree = None
        return self._sort(prior, state), int(groups.sum()) - len(accepted)

    def _evaluate(self, prior: Prior, state: MixtureState) -> Tensor:
        """The full-data ELBO, from statistics alone."""
        return compute_elbo(prior, state.statistics, prior.build(state))

    def _sort(self, prior: Prior, state: MixtureState) -> MixtureState:
        """Order components by size, if that raises the ELBO."""
        order = sort_components(state.statistics.counts)
        ordered = prior.update(state.statistics.select(order), state)
        if not bool(self._evaluate(prior, ordered) > self._evaluate(prior, state)):
            return state
        for index, shard in self._shards.items():
            self._shards[index] = shard._replace(statistics=shard.statistics.select(order))
        return ordered

    def _total(self) -> Statistics:
        """The sum of the cache."""
        total, *rest = (shard.statistics for shard in self._shards.values())
        for statistics in rest:
            total = total + statistics
        return total
