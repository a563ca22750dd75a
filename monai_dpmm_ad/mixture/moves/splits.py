# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Births: a component that holds two groups of data is split, accepted only if the ELBO rises.

Seeds of k-means++ crowd where data are dense, and natural gradients never move a component far. A split takes an empty
component, or the one that becomes free when two others that explain each other's data well are merged. The halves are
those of 2-means on the component's part of a sample; what a split gains follows from their statistics as for merges.

Reference:
    Hughes and Sudderth 2013, section 3.3, for births that are targeted at one component's data; Ueda et al. 2000, SMEM
    algorithm for mixture models, for paying a split with a merge. Here many such pairs are made at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.initialise import compute_hard_statistics
from monai_dpmm_ad.mixture.moves.merges import MergeTree, compute_component_evidence, compute_merge_gains
from monai_dpmm_ad.mixture.posterior import MIN_COUNT
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import MixtureState, Prior
from monai_dpmm_ad.ops.kmeans import fit_kmeans

__all__ = ["Split", "Trade", "accept_splits", "propose_splits", "trade_splits"]

LEAST_ROWS = 20  # of the sample: fewer say nothing about two groups
MAX_PROPOSALS = 100  # the heaviest components, one 2-means each
KMEANS_ITERATIONS = 5


class Split(NamedTuple):
    """One component as two.

    Args:
        component: which.
        gain: of the ELBO, nats, other components left as they are.
        halves: statistics of the two, of the component's part of the sample.
    """

    component: int
    gain: float
    halves: Statistics


class Trade(NamedTuple):
    """A split with the place that its second half takes.

    Args:
        split: what is split.
        target: the component that is free, or becomes free.
        merged: the component that takes over the target's data before; None where it is empty.
        entropy: of the joint assignment of those two, nats.
    """

    split: Split
    target: int
    merged: int | None
    entropy: float


def propose_splits(
    prior: Prior, sample: Tensor, labels: Tensor, factor: Tensor, num_components: int, generator: torch.Generator
) -> list[Split]:
    """Find the components whose split promises to raise the ELBO.

    Args:
        prior: priors and likelihood.
        sample: (n, D), drawn over the whole data set.
        labels: (n,), each one's most likely component.
        factor: 0-dim, N/n.
        num_components: K.
        generator: the source of randomness, a CPU generator.

    Returns:
        the splits that gain, best first.
    """
    sizes = torch.bincount(labels, minlength=num_components)
    found = []
    for component in sizes.argsort(descending=True, stable=True)[:MAX_PROPOSALS].tolist():
        rows = sample[labels == component]
        if len(rows) < LEAST_ROWS:
            break
        sides = fit_kmeans(rows - rows.mean(0), 2, generator, restarts=1, max_iterations=KMEANS_ITERATIONS).labels
        halves = compute_hard_statistics(prior.family, prior.scale, rows, sides, 2).scale(factor)
        counts = halves.counts
        apart = compute_component_evidence(prior, counts, halves.sums).sum()
        together = compute_component_evidence(prior, counts.sum()[None], halves.sums.sum(0)[None]).sum()
        weights = torch.xlogy(counts, counts / counts.sum()).sum()
        found.append(Split(component, float(apart - together + weights), halves))
    return sorted((split for split in found if split.gain > 0.0), key=lambda split: -split.gain)


def trade_splits(
    prior: Prior, state: MixtureState, splits: list[Split], pairs: MergeTree, entropy: Tensor
) -> list[Trade]:
    """Give every split a place: an empty component first, then the merge that costs least, while both together gain.

    Args:
        prior: priors and likelihood.
        state: the present state.
        splits: best first.
        pairs: the pairs of components that could be merged.
        entropy: (C,), of the pairs' joint assignments over the data set, nats.
    """
    empty = (state.statistics.counts < MIN_COUNT).nonzero()[:, 0].tolist()
    gains = compute_merge_gains(prior, state, pairs.groups, entropy)
    order = gains.argsort(descending=True).tolist()
    members = [sorted(-1 - child for child in children) for children in pairs.children]
    used: set[int] = set()
    trades = []
    for split in splits:
        if split.component in used:
            continue
        if empty:
            trades.append(Trade(split, empty.pop(), None, 0.0))
            used.add(split.component)
            continue
        pair = next((i for i in order if used.isdisjoint([*members[i]]) and split.component not in members[i]), None)
        if pair is None or split.gain + float(gains[pair]) <= 0.0:
            break
        keep, free = members[pair]
        trades.append(Trade(split, free, keep, float(entropy[pair])))
        used.update((split.component, keep, free))
    return trades


def accept_splits(
    prior: Prior, state: MixtureState, trades: list[Trade], evaluate: Callable[[MixtureState], float]
) -> tuple[MixtureState, int]:
    """Make as many of the trades at once as raise the ELBO; where they do not, try the better half.

    Args:
        prior: priors and likelihood.
        state: the present state.
        trades: best first.
        evaluate: computes the ELBO of a state.

    Returns:
        the state, the same one if nothing was accepted, and how many components were split.
    """
    present = evaluate(state) if trades else 0.0
    while trades:
        moved = prior.update(_apply(state.statistics, trades), state)
        if evaluate(moved) > present:
            return moved, len(trades)
        trades = trades[: len(trades) // 2]
    return state, 0


def _apply(statistics: Statistics, trades: list[Trade]) -> Statistics:
    """The statistics after the trades; a half gets its share of what its component held."""
    counts, sums, entropy = (part.clone() for part in statistics[:3])
    for split, target, merged, joint in trades:
        if merged is not None:
            counts[merged] += counts[target]
            sums[merged] += sums[target]
            entropy[merged] = joint
        both = [split.component, target]
        ratio = counts[split.component] / split.halves.counts.sum()
        counts[both] = split.halves.counts * ratio
        sums[both] = split.halves.sums * ratio
        entropy[both] = 0.0
    return statistics._replace(counts=counts, sums=sums, entropy=entropy)
