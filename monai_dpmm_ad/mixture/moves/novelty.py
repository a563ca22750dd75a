# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Components for what is new when data are added to a fitted mixture that has none to spare.

Natural gradients never move a component far, and former data are known by their statistics alone. So groups of the new
data that would rather be components of their own are added, and the most similar components, old or new, are merged
until the truncation is met again. Merging two old ones needs no datum: statistics add. What it costs is known but for
the entropy of their joint assignment; with zero in its place the ELBO is a lower bound.

Reference:
    Hughes and Sudderth 2013, section 3.3, for births from a targeted sample. Paying for all of them at once, by the
    merges that reach a given number of components, is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.expectation import measure_evidence, run_local_step
from monai_dpmm_ad.mixture.initialise import compute_hard_statistics, seed_labels
from monai_dpmm_ad.mixture.moves.merges import (
    choose_groups,
    compute_component_evidence,
    compute_merge_gains,
    merge_statistics,
    propose_merges,
    sort_components,
)
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import MixtureState, Prior, compute_elbo, normalise, reduce_log_prob

__all__ = ["admit_novelty"]

BISECTIONS = 50


def admit_novelty(
    prior: Prior,
    state: MixtureState,
    kept: Statistics,
    sample: Tensor,
    chunk_size: int,
    generator: torch.Generator,
    limit: int,
) -> tuple[MixtureState, Statistics, int]:
    """Give groups of new data components of their own, merging as many others as need be, if the ELBO rises.

    Args:
        prior: priors and likelihood.
        state: the present state, former data included.
        kept: the part of its statistics that former data left.
        sample: (n, D), drawn over the new data.
        chunk_size: rows at a time.
        generator: the source of randomness, a CPU generator.
        limit: how many components there may be.

    Returns:
        the state, the kept part of its statistics, and how many groups got a component; the first two as they were if
        none did.
    """
    factor = (state.statistics.size - kept.size) / sample.shape[0]

    def evaluate(candidate: MixtureState, part: Statistics) -> float:
        factors = prior.build(candidate)
        evidence = measure_evidence(prior, factors, sample, chunk_size)
        return float(evidence * factor + compute_elbo(prior, part, factors))

    labels = seed_labels(prior.scale, sample, kept.counts.shape[0], generator)
    born = _find_groups(prior, state, sample, labels, factor, chunk_size)
    if not born.numel():
        return state, kept, 0
    numbers = torch.full_like(kept.counts, -1, dtype=torch.long)
    numbers[born] = torch.arange(len(born), device=born.device)
    place = numbers[labels]
    opened = compute_hard_statistics(prior.family, prior.scale, sample[place >= 0], place[place >= 0], len(born))
    settled = run_local_step(prior, prior.build(state), sample[place < 0], chunk_size).statistics
    wide_kept = kept.widen(len(born))
    wide = wide_kept + settled.scale(factor).widen(len(born))
    wide.counts[-len(born) :] += opened.counts * factor
    wide.sums[-len(born) :] += opened.sums * factor
    wide = wide._replace(size=state.statistics.size)
    room = min(limit, len(wide.counts))
    groups = _choose_merges(prior, prior.update(wide, state), room)
    nothing = kept.counts.new_zeros(len(groups))
    merged = merge_statistics(wide, groups, nothing)
    order = sort_components(merged.counts)[:room]
    moved = prior.update(merged.select(order), state)
    moved_kept = merge_statistics(wide_kept, groups, nothing).select(order)
    if evaluate(moved, moved_kept) > evaluate(state, kept):
        return moved, moved_kept, len(born)
    return state, kept, 0


def _find_groups(
    prior: Prior, state: MixtureState, sample: Tensor, labels: Tensor, factor: Tensor, chunk_size: int
) -> Tensor:
    """The labels (M,) of groups that explain themselves better as components of their own than the state does."""
    groups = compute_hard_statistics(prior.family, prior.scale, sample, labels, len(state.statistics.counts))
    groups = groups.scale(factor)
    log_norm = reduce_log_prob(prior, prior.build(state), sample, chunk_size, lambda x: normalise(x)[1])
    shared = torch.zeros_like(groups.counts).index_add_(0, labels, log_norm.double()) * factor
    apart = compute_component_evidence(prior, groups.counts, groups.sums)
    apart = apart + torch.xlogy(groups.counts, groups.counts / state.statistics.size)
    return ((apart > shared) & (groups.counts > 0.0)).nonzero()[:, 0]


def _choose_merges(prior: Prior, state: MixtureState, num_components: int) -> Tensor:
    """Groups (M, K) bool of components to merge, so that no more than a number of them hold data, at the least cost."""
    tree = propose_merges(prior, state)
    if not tree.children:
        return tree.groups
    gains = compute_merge_gains(prior, state, tree.groups, state.statistics.counts.new_zeros(len(tree.groups)))
    freed = tree.groups.sum(1) - 1
    surplus = len(tree.groups) + 1 - num_components

    def choose(price: float) -> list[int]:
        return choose_groups(tree, (gains + price * freed).tolist())

    low, high = 0.0, 1.0 + 2.0 * float(gains.abs().sum())  # at that price all become one
    for _ in range(BISECTIONS):
        price = 0.5 * (low + high)
        low, high = (low, price) if int(freed[choose(price)].sum()) >= surplus else (price, high)
    return tree.groups[choose(high)]
