# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Merges: how the number of components adapts, each set of moves accepted only if the ELBO rises.

A merge gives the data of a group of components to one of them: responsibilities and statistics add. What the ELBO
gains then follows from statistics, but for one number per group, the entropy of its joint assignment, which a pass over
some data measures; it is near zero where the group is a whole cluster. The groups are the nodes of an agglomerative
tree, so that seven fragments of one cluster can become one even where joining two of the seven would not pay. Pruning
a component that holds little is a merge too.

Reference:
    Hughes and Sudderth 2013, Memoized online variational inference for Dirichlet process mixture models, section 3.2,
    for the exact ELBO of merged pairs; groups from a tree are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from monai_dpmm_ad.mixture.posterior import MIN_COUNT
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import MixtureState, Prior

__all__ = ["MergeTree", "accept_merges", "choose_groups", "compute_component_evidence", "compute_merge_gains"]
__all__ += ["merge_statistics", "propose_merges", "sort_components"]


class MergeTree(NamedTuple):
    """Groups of components that might become one, nested as a binary tree.

    Args:
        groups: (C, K) bool, the members of each node, children before parents.
        children: per node, the nodes or components below it: i ≥ 0 is node i, −1 − k is component k.
    """

    groups: Tensor
    children: list[tuple[int, int]]


def propose_merges(prior: Prior, state: MixtureState) -> MergeTree:
    """Build the tree of merges, by how much one component loses when another has to explain its data.

    The mean log density of component b's data under component a is its mean statistic times a's coefficients: one
    product of K×F and F×K. Average linkage then needs K² time and no data.

    Args:
        prior: priors and likelihood.
        state: the present state.

    Returns:
        one node for each but one of the components that hold data.
    """
    counts, sums = state.statistics.counts, state.statistics.sums
    held = (counts >= MIN_COUNT).nonzero()[:, 0]
    num_components, num_held = counts.shape[0], held.shape[0]
    if num_held < 2:
        return MergeTree(torch.zeros(0, num_components, dtype=torch.bool, device=counts.device), [])
    coefficients = prior.build(state).coefficients
    densities = prior.family.compute_cross_likelihood(sums[held] / counts[held, None], coefficients)[:, held]
    loss = (densities.diagonal()[:, None] - densities).clamp(min=0.0)
    loss = torch.minimum(loss, loss.T).fill_diagonal_(0.0)
    steps = linkage(squareform(loss.cpu().numpy(), checks=False), method="average")

    groups = torch.zeros(num_held - 1, num_components, dtype=torch.bool)
    children: list[tuple[int, int]] = []
    members = held.tolist()
    for node, (left, right) in enumerate(steps[:, :2].astype(int).tolist()):
        below = tuple(i - num_held if i >= num_held else -1 - members[i] for i in (left, right))
        for child in below:
            if child >= 0:
                groups[node] |= groups[child]
            else:
                groups[node, -1 - child] = True
        children.append((below[0], below[1]))
    return MergeTree(groups.to(counts.device), children)


def compute_merge_gains(prior: Prior, state: MixtureState, groups: Tensor, group_entropy: Tensor) -> Tensor:
    """Compute what the ELBO gains by each merge, the weights of other components left as they are.

    Args:
        prior: priors and likelihood.
        state: the present state.
        groups: (C, K) bool.
        group_entropy: (C,), H of the groups' summed responsibilities over the data set, nats.

    Returns:
        (C,), nats.
    """
    counts, sums = state.statistics.counts, state.statistics.sums
    weights = prior.build(state).log_weights
    membership = groups.to(counts.dtype)
    alone = compute_component_evidence(prior, counts, sums) + counts * weights + state.statistics.entropy
    merged_counts = membership @ counts
    merged = compute_component_evidence(prior, merged_counts, membership @ sums)
    merged_weights = torch.where(groups, weights, -torch.inf).logsumexp(1)
    return merged + merged_counts * merged_weights - membership @ alone + group_entropy


def choose_groups(tree: MergeTree, gains: list[float]) -> list[int]:
    """Choose the disjoint nodes of a tree whose gains add up to most.

    Args:
        tree: nodes, children before parents.
        gains: of each node.

    Returns:
        the chosen nodes, best first; none that does not gain.
    """
    best: list[tuple[float, list[int]]] = []
    for node, (gain, below) in enumerate(zip(gains, tree.children, strict=True)):
        options = [best[child] for child in below if child >= 0]
        apart = sum(option[0] for option in options)
        best.append((gain, [node]) if gain > apart else (apart, [i for option in options for i in option[1]]))
    return sorted(best[-1][1], key=lambda node: -gains[node])


def accept_merges(
    prior: Prior,
    state: MixtureState,
    tree: MergeTree,
    gains: Tensor,
    group_entropy: Tensor,
    evaluate: Callable[[MixtureState], float],
) -> tuple[MixtureState, list[int]]:
    """Make as many of the promising merges at once as raise the ELBO; where a set does not, try its better half.

    Args:
        prior: priors and likelihood.
        state: the present state.
        tree: the candidates.
        gains: (C,), of `compute_merge_gains`.
        group_entropy: (C,), of the groups, over the data set.
        evaluate: computes the ELBO of a state.

    Returns:
        the state, the same one if nothing was accepted, and the nodes that were merged.
    """
    chosen = choose_groups(tree, gains.tolist())
    present = evaluate(state) if chosen else 0.0
    while chosen:
        statistics = merge_statistics(state.statistics, tree.groups[chosen], group_entropy[chosen])
        merged = prior.update(statistics, state)
        if evaluate(merged) > present:
            return merged, chosen
        chosen = chosen[: len(chosen) // 2]
    return state, []


def merge_statistics(statistics: Statistics, groups: Tensor, group_entropy: Tensor) -> Statistics:
    """Give the data of each group to its first member.

    Args:
        statistics: expected statistics.
        groups: (M, K) bool, disjoint.
        group_entropy: (M,), of the groups.

    Returns:
        the merged statistics.
    """
    keep = ~groups.any(0)
    membership = groups.to(statistics.counts.dtype)
    heads = groups.to(torch.uint8).argmax(1)
    counts = (statistics.counts * keep).index_add(0, heads, membership @ statistics.counts)
    sums = (statistics.sums * keep[:, None]).index_add(0, heads, membership @ statistics.sums)
    entropy = (statistics.entropy * keep).index_add(0, heads, group_entropy)
    return statistics._replace(counts=counts, sums=sums, entropy=entropy)


def sort_components(counts: Tensor) -> Tensor:
    """Find the order by falling count, in which stick-breaking weights cost least.

    Args:
        counts: (K,).

    Returns:
        (K,), a permutation.
    """
    return counts.argsort(descending=True, stable=True)


def compute_component_evidence(prior: Prior, counts: Tensor, sums: Tensor) -> Tensor:
    """Compute Σ_n r_nk E[log p(y_n | θ_k)] − KL(q(θ_k)) of components that are made from these statistics.

    Args:
        prior: priors and likelihood.
        counts: (K,).
        sums: (K, F).

    Returns:
        (K,), nats.
    """
    params = prior.family.build_posterior(prior.scale, counts, sums)
    coefficients = prior.family.compute_expected_coefficients(prior.scale, params)
    statistics = Statistics(counts, sums, torch.zeros_like(counts), counts.sum())
    likelihood = prior.family.compute_likelihood(statistics, coefficients)
    return likelihood - prior.family.compute_kl(prior.scale, params)
