# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""When a streaming fit moves: merges at the end of a pass, splits at the start of the next, which settles them.

Merges are judged by statistics of all data. A split is proposed on one part of a sample and judged on the other, and
its halves are rough: so the state at the end of a pass never holds one that no pass has settled. Where the next pass
ends below the state before the splits, on the rows that judge, they are undone, and no more are made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.expectation import label_rows, measure_evidence, measure_group_entropy
from monai_dpmm_ad.mixture.moves.merges import (
    MergeTree,
    accept_merges,
    compute_merge_gains,
    propose_merges,
    sort_components,
)
from monai_dpmm_ad.mixture.moves.splits import Labelled, apply_trades, propose_splits, trade_splits
from monai_dpmm_ad.mixture.posterior import MIN_COUNT
from monai_dpmm_ad.mixture.variational import Factors, MixtureState, Prior

__all__ = ["MoveSchedule", "merge_on_sample"]

LEAST_FREED = 0.01  # of the components: a round that merges fewer is the last
MAX_ROUNDS = 10  # each round can merge every group that pays; a few settle it
CONFIRMING_ROWS = 20_000  # of the sample: gains of merges follow from statistics of all data, but for an entropy
JUDGES = 3  # every third row of the sample judges the splits that the others propose


class MoveSchedule:
    """The moves of one fit; remembers the splits that are still to be settled."""

    def __init__(self) -> None:
        self._pending: MixtureState | None = None
        self._before: MixtureState | None = None
        #: whether splits did not hold: no more are made
        self.undone = False

    def start_pass(self, prior: Prior, state: MixtureState, factors: Factors) -> tuple[MixtureState, Factors]:
        """Get the state to go on from, and its factors: with the splits that the last pass has proposed, if any."""
        if self._pending is None:
            return state, factors
        state, self._pending = self._pending._replace(num_seen=state.num_seen), None
        return state, prior.build(state)

    def finish_pass(
        self,
        prior: Prior,
        state: MixtureState,
        sample: Tensor,
        chunk_size: int,
        generator: torch.Generator,
        limit: int,
    ) -> tuple[MixtureState, int]:
        """Undo the last splits if they do not hold, merge, order components by size, and propose new splits.

        Args:
            prior: priors and likelihood.
            state: the present state, its statistics scaled to the data set.
            sample: (n, D), drawn over the whole data set.
            chunk_size: rows at a time.
            generator: the source of randomness, a CPU generator.
            limit: how many components there may be: splits that find none empty make new ones up to that.

        Returns:
            the state, and how many components were merged away or are about to be split.
        """
        order = torch.randperm(len(sample), generator=generator).to(sample.device)
        judging, proposing = sample[order[::JUDGES]], sample[order[torch.arange(len(order)) % JUDGES > 0]]
        if self._pending is None and self._before is not None:
            evaluate = _make_evaluation(prior, _thin(judging), state.statistics.size, chunk_size)
            if evaluate(state) < evaluate(self._before):
                state, self.undone = self._before._replace(num_seen=state.num_seen), True
        state, merged = merge_on_sample(prior, state, sample, chunk_size)
        state = prior.update(state.statistics.select(sort_components(state.statistics.counts)), state)
        self._pending = self._before = None
        if self.undone:
            return state, merged
        splits, split = _split(prior, state, proposing, judging, chunk_size, generator, limit)
        if split:
            self._pending, self._before = splits, state
        return state, merged + split


def merge_on_sample(prior: Prior, state: MixtureState, sample: Tensor, chunk_size: int) -> tuple[MixtureState, int]:
    """Merge in rounds until few merges raise the ELBO, its data term estimated from a sample; the next pass goes on.

    Args:
        prior: priors and likelihood.
        state: the present state, its statistics scaled to the data set.
        sample: (n, D), drawn over the whole data set.
        chunk_size: rows at a time.

    Returns:
        the state, and how many components were merged away.
    """
    sample = _thin(sample)
    evaluate = _make_evaluation(prior, sample, state.statistics.size, chunk_size)
    accepted = 0
    for _ in range(MAX_ROUNDS):
        tree = propose_merges(prior, state)
        if not tree.children:
            break
        gains, entropy = _measure_promising(prior, state, sample, chunk_size, tree)
        state, merged = accept_merges(prior, state, tree, gains, entropy, evaluate)
        freed = int(tree.groups[merged].sum()) - len(merged)
        accepted += freed
        if freed < LEAST_FREED * len(tree.children):
            break
    return state, accepted


def _split(
    prior: Prior,
    state: MixtureState,
    proposing: Tensor,
    judging: Tensor,
    chunk_size: int,
    generator: torch.Generator,
    limit: int,
) -> tuple[MixtureState, int]:
    """Split once; the next pass settles the halves before any is split again."""
    factors = prior.build(state)
    proposers, judges = (Labelled(x, label_rows(prior, factors, x, chunk_size)) for x in (proposing, judging))
    splits = propose_splits(prior, state, proposers, judges, generator)
    if not splits:
        return state, 0
    tree = propose_merges(prior, state)
    leaves = [i for i, children in enumerate(tree.children) if max(children) < 0]
    pairs = MergeTree(tree.groups[leaves], [tree.children[i] for i in leaves])
    sample = _thin(torch.cat([proposing, judging]))
    gains, entropy = _measure_promising(prior, state, sample, chunk_size, pairs, splits[0].gain)
    wanting = len(splits) - int((state.statistics.counts < MIN_COUNT).sum())
    wide = state.statistics.widen(max(min(wanting, limit - len(state.statistics.counts)), 0))
    trades = trade_splits(wide.counts, splits, pairs, gains, entropy)
    return prior.update(apply_trades(wide, trades), state), len(trades)


def _thin(sample: Tensor) -> Tensor:
    """Rows enough to confirm by."""
    return sample[:: -(-len(sample) // CONFIRMING_ROWS)]


def _make_evaluation(prior: Prior, sample: Tensor, size: Tensor, chunk_size: int) -> Callable[[MixtureState], float]:
    """A function that estimates a state's ELBO, nats of the whole data set, from a sample; it knows the last one."""
    last: list[tuple[MixtureState, float]] = []

    def evaluate(candidate: MixtureState) -> float:
        if last and last[0][0] is candidate:
            return last[0][1]
        factors = prior.build(candidate)
        evidence = measure_evidence(prior, factors, sample, chunk_size)
        last[:] = [(candidate, float(evidence * (size / sample.shape[0]) - factors.kl))]
        return last[0][1]

    return evaluate


def _measure_promising(
    prior: Prior, state: MixtureState, sample: Tensor, chunk_size: int, tree: MergeTree, allowance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """What each merge gains and the entropy of its joint assignment, (C,), nats; −inf for those that cannot pay.

    Joint assignments have at most the entropy of the single ones, which is known: so most groups need no product. A
    merge may cost the allowance.
    """
    single = state.statistics.entropy.clamp(min=0.0)
    gains = compute_merge_gains(prior, state, tree.groups, torch.zeros_like(single[0]))
    promising = (gains + tree.groups.to(single.dtype) @ single > -allowance).nonzero()[:, 0]
    found = measure_group_entropy(prior, prior.build(state), sample, chunk_size, tree.groups[promising])
    entropy = torch.full_like(gains, -torch.inf)
    entropy[promising] = found * (state.statistics.size / sample.shape[0])
    return gains + entropy, entropy
