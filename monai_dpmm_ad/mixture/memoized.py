# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Incremental variational Bayes: one cached statistic per shard, no learning rate, an ELBO that never decreases.

Reference:
    Neal and Hinton 1998, A view of the EM algorithm that justifies incremental variants; Hughes and Sudderth 2013,
    Memoized online variational inference for Dirichlet process mixture models, section 3. Here shards not yet seen
    are represented by their share of the statistics that initialisation made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.local_step import LocalStep
from monai_dpmm_ad.mixture.moves import MergeTree, accept_merges, merge_statistics, propose_merges, sort_components
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import Model, State, compute_elbo

__all__ = ["Memoized"]


class Memoized:
    """The cache of one statistic per shard; the global statistics are their sum.

    A *lap* is one pass over all shards. Merges are proposed at its start, measured during it, decided at its end.

    Args:
        initial: the statistics that initialisation made, scaled to the data set.
    """

    def __init__(self, initial: Statistics) -> None:
        self.initial = initial
        self.shards: dict[int, LocalStep] = {}
        self.fingerprints: dict[int, Tensor] = {}
        self.tree: MergeTree | None = None
        self.changed: Tensor | None = None

    def start_lap(self, model: Model, state: State) -> None:
        """Propose the merges that the coming lap measures."""
        self.tree = propose_merges(model, state)

    def step(self, model: Model, state: State, found: LocalStep, index: int, fingerprint: Tensor) -> State:
        """Replace a shard's part of the global statistics.

        Args:
            model: priors and likelihood.
            state: the present state.
            found: the shard's local step under the present state.
            index: which shard.
            fingerprint: 0-dim, changes when the shard's data do.

        Returns:
            the next state.
        """
        if index in self.shards:
            old = self.shards[index].statistics
            changed = (self.fingerprints[index] - fingerprint).abs() > 1e-6 * fingerprint.abs()
            self.changed = changed if self.changed is None else self.changed | changed
        else:
            old = self.initial.scale(found.statistics.size / self.initial.size)
        self.shards[index] = found
        self.fingerprints[index] = fingerprint
        return model.update(state.statistics - old + found.statistics, state.alpha_rate)

    def finish_lap(self, model: Model, state: State) -> tuple[State, int]:
        """Add up the cache afresh, then accept merges by the exact change of the full-data ELBO.

        Args:
            model: priors and likelihood.
            state: the present state.

        Returns:
            the next state and how many components were merged away.

        Raises:
            ValueError: if a shard held other data than in the lap before.
        """
        if self.changed is not None and bool(self.changed):
            raise ValueError(
                "`batches` must be the same in every epoch for memoized inference, got other data in one seen before. "
                "Turn shuffling off, or use natural inference."
            )
        state = model.update(self._total(), state.alpha_rate)
        if self.tree is None or not self.tree.children:
            return state, 0
        group_entropy = torch.stack([shard.group_entropy for shard in self.shards.values()]).sum(0)
        state, accepted = accept_merges(
            model, state, self.tree, group_entropy, lambda s: float(self._evaluate(model, s))
        )
        groups = self.tree.groups[accepted]
        if accepted:
            for index, shard in self.shards.items():
                merged = merge_statistics(shard.statistics, groups, shard.group_entropy[accepted])
                self.shards[index] = shard._replace(statistics=merged)
        self.tree = None
        return self._sort(model, state), int(groups.sum()) - len(accepted)

    def _evaluate(self, model: Model, state: State) -> Tensor:
        """The full-data ELBO, from statistics alone."""
        return compute_elbo(model, state.statistics, model.build(state))

    def _sort(self, model: Model, state: State) -> State:
        """Order components by size, if that raises the ELBO."""
        order = sort_components(state.statistics.counts)
        ordered = model.update(state.statistics.select(order), state.alpha_rate)
        if not bool(self._evaluate(model, ordered) > self._evaluate(model, state)):
            return state
        for index, shard in self.shards.items():
            self.shards[index] = shard._replace(statistics=shard.statistics.select(order))
        return ordered

    def _total(self) -> Statistics:
        """The sum of the cache."""
        total, *rest = (shard.statistics for shard in self.shards.values())
        for statistics in rest:
            total = total + statistics
        return total
