# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Births: a component that holds two groups of data is split, where rows that had no part in it say that it is two.

Seeds of k-means++ crowd where data are dense, and natural gradients never move a component far. A split takes an empty
component, or the one that becomes free when two others that explain each other's data well are merged. The halves are
those of 2-means on the component's part of a sample. Two centres always fit the rows better that placed them, in many
dimensions far better: so a split is judged by other rows, one component and two having learnt from the same few.

Reference:
    Hughes and Sudderth 2013, section 3.3, for births that are targeted at one component's data; Ueda et al. 2000, SMEM
    algorithm for mixture models, for paying a split with a merge. Here many such pairs are made at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.initialise import compute_hard_statistics
from monai_dpmm_ad.mixture.moves.merges import MergeTree
from monai_dpmm_ad.mixture.posterior import MIN_COUNT
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import MixtureState, Prior
from monai_dpmm_ad.ops.kmeans import fit_kmeans

__all__ = ["Labelled", "Split", "Trade", "apply_trades", "propose_splits", "trade_splits"]

LEAST_ROWS = 20  # that propose: fewer say nothing about two groups
LEAST_SIDE = 2  # rows on either side, of those that propose and of those that judge: one row is no group
MAX_PROPOSALS = 100  # the heaviest components, one 2-means each
KMEANS_ITERATIONS = 5


class Labelled(NamedTuple):
    """Rows (n, D) with each one's most likely component (n,)."""

    rows: Tensor
    labels: Tensor


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
    prior: Prior, state: MixtureState, proposing: Labelled, judging: Labelled, generator: torch.Generator
) -> list[Split]:
    """Find the components whose split promises to raise the ELBO.

    Args:
        prior: priors and likelihood.
        state: the present state.
        proposing: rows that place the halves, drawn over the whole data set.
        judging: other rows, drawn in the same way.
        generator: the source of randomness, a CPU generator.

    Returns:
        the splits that gain, best first.
    """
    factor = state.statistics.size / (len(proposing.rows) + len(judging.rows))
    sizes = torch.bincount(proposing.labels, minlength=state.statistics.counts.shape[0])
    found = []
    for component in sizes.argsort(descending=True, stable=True)[:MAX_PROPOSALS].tolist():
        if int(sizes[component]) < LEAST_ROWS:
            break
        rows, others = (part.rows[part.labels == component] for part in (proposing, judging))
        placed = prior.scale.to(rows.dtype).place(rows)
        sides = fit_kmeans(placed, 2, generator, restarts=1, max_iterations=KMEANS_ITERATIONS).labels
        halves = compute_hard_statistics(prior.family, prior.scale, rows, sides, 2)
        if len(others) < 2 * LEAST_SIDE or float(halves.counts.min()) < LEAST_SIDE:
            continue
        scaled = halves.scale(factor)
        gain = float(_judge(prior, halves, others) * state.statistics.counts[component] - _measure_cost(prior, scaled))
        if gain > 0.0:
            found.append(Split(component, gain, scaled))
    return sorted(found, key=lambda split: -split.gain)


def _judge(prior: Prior, halves: Statistics, rows: Tensor) -> Tensor:
    """The mean gain of log density of rows (n, D) by two components in place of one that has the same data, nats."""
    both = halves._replace(counts=halves.counts.sum(0, keepdim=True), sums=halves.sums.sum(0, keepdim=True))
    densities = []
    for statistics in (halves, both):
        params = prior.family.build_posterior(prior.scale, statistics.counts, statistics.sums)
        coefficients = prior.family.compute_predictive_coefficients(prior.scale, params).to(rows.dtype)
        features = prior.family.make_features(rows, prior.scale.to(rows.dtype))
        weights = (statistics.counts / halves.size).log().to(rows.dtype)
        densities.append((prior.family.compute_log_prob(features, coefficients) + weights).logsumexp(1))
    return (densities[0] - densities[1]).mean(dtype=torch.float64)


def _measure_cost(prior: Prior, halves: Statistics) -> Tensor:
    """What two components lose more than one against their prior, 0-dim, nats."""
    counts, sums = (torch.cat([part, part.sum(0, keepdim=True)]) for part in (halves.counts, halves.sums))
    params = prior.family.build_posterior(prior.scale, counts, sums)
    return (prior.family.compute_kl(prior.scale, params) * counts.new_tensor([1.0, 1.0, -1.0])).sum()


def trade_splits(counts: Tensor, splits: list[Split], pairs: MergeTree, gains: Tensor, entropy: Tensor) -> list[Trade]:
    """Give every split a place: an empty component first, then the merge that costs least, while both together gain.

    Args:
        counts: (K,), of the present state.
        splits: best first.
        pairs: the pairs of components that could be merged.
        gains: (C,), of their merges, nats.
        entropy: (C,), of the pairs' joint assignments over the data set, nats.
    """
    empty = (counts < MIN_COUNT).nonzero()[:, 0].tolist()
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


def apply_trades(statistics: Statistics, trades: list[Trade]) -> Statistics:
    """Make the statistics after the trades; a half gets its share of what its component held.

    Args:
        statistics: expected statistics.
        trades: no component in two of them.
    """
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
