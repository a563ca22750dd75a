# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How the components adapt to the data between epochs: merges, splits, and their order, judged on a sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.expectation import run_local_step
from monai_dpmm_ad.mixture.moves.merges import MergeTree, accept_merges, propose_merges, sort_components
from monai_dpmm_ad.mixture.moves.splits import accept_splits, propose_splits, trade_splits
from monai_dpmm_ad.mixture.variational import MixtureState, Prior, reduce_log_prob

__all__ = ["adapt_to_sample"]

MAX_ROUNDS = 10  # each round can merge every group that pays; a few settle it


def adapt_to_sample(
    prior: Prior, state: MixtureState, sample: Tensor, chunk_size: int, generator: torch.Generator
) -> tuple[MixtureState, int]:
    """Merge and split while the ELBO, its data term estimated from a sample, rises; then order components by size.

    Args:
        prior: priors and likelihood.
        state: the present state, its statistics scaled to the data set.
        sample: (n, D), drawn over the whole data set.
        chunk_size: rows at a time.
        generator: the source of randomness, a CPU generator.

    Returns:
        the state, and how many components were merged away or split.
    """
    factor = state.statistics.size / sample.shape[0]

    def evaluate(candidate: MixtureState) -> float:
        factors = prior.build(candidate)
        evidence = run_local_step(prior, factors, sample, chunk_size, screened=True).evidence
        return float(evidence * factor - factors.kl)

    state, merged = _merge(prior, state, sample, chunk_size, evaluate)
    state, split = _split(prior, state, sample, chunk_size, evaluate, generator)
    ordered = state.statistics.select(sort_components(state.statistics.counts))
    return prior.update(ordered, state), merged + split


def _merge(
    prior: Prior, state: MixtureState, sample: Tensor, chunk_size: int, evaluate: Callable[[MixtureState], float]
) -> tuple[MixtureState, int]:
    """Merge in rounds until no merge pays."""
    accepted = 0
    for _ in range(MAX_ROUNDS):
        tree = propose_merges(prior, state)
        if not tree.children:
            break
        entropy = _measure(prior, state, sample, chunk_size, tree)
        state, merged = accept_merges(prior, state, tree, entropy, evaluate)
        accepted += int(tree.groups[merged].sum()) - len(merged)
        if not merged:
            break
    return state, accepted


def _split(
    prior: Prior,
    state: MixtureState,
    sample: Tensor,
    chunk_size: int,
    evaluate: Callable[[MixtureState], float],
    generator: torch.Generator,
) -> tuple[MixtureState, int]:
    """Split once; the next epoch settles the halves before any is split again."""
    factor = state.statistics.size / sample.shape[0]
    labels = reduce_log_prob(prior, prior.build(state), sample, chunk_size, lambda x: x.argmax(1))
    splits = propose_splits(prior, sample, labels, factor, state.statistics.counts.shape[0], generator)
    if not splits:
        return state, 0
    tree = propose_merges(prior, state)
    leaves = [i for i, children in enumerate(tree.children) if max(children) < 0]
    pairs = MergeTree(tree.groups[leaves], [tree.children[i] for i in leaves])
    entropy = _measure(prior, state, sample, chunk_size, pairs)
    return accept_splits(prior, state, trade_splits(prior, state, splits, pairs, entropy), evaluate)


def _measure(prior: Prior, state: MixtureState, sample: Tensor, chunk_size: int, tree: MergeTree) -> Tensor:
    """The entropy of each group's joint assignment over the data set, (C,), nats."""
    factor = state.statistics.size / sample.shape[0]
    return run_local_step(prior, prior.build(state), sample, chunk_size, tree.groups).group_entropy * factor
