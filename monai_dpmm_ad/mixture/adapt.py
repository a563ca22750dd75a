# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How the components adapt to the data between epochs: merges, splits, and their order, judged on a sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.local_step import run_local_step
from monai_dpmm_ad.mixture.moves import MergeTree, accept_merges, propose_merges, sort_components
from monai_dpmm_ad.mixture.splits import accept_splits, propose_splits, trade_splits
from monai_dpmm_ad.mixture.variational import Model, State, reduce_log_prob

__all__ = ["adapt_to_sample"]

MAX_ROUNDS = 10  # each round can merge every group that pays; a few settle it


def adapt_to_sample(
    model: Model, state: State, sample: Tensor, chunk_size: int, generator: torch.Generator
) -> tuple[State, int]:
    """Merge and split while the ELBO, its data term estimated from a sample, rises; then order components by size.

    Args:
        model: priors and likelihood.
        state: the present state, its statistics scaled to the data set.
        sample: (n, D), drawn over the whole data set.
        chunk_size: rows at a time.
        generator: the source of randomness, a CPU generator.

    Returns:
        the state, and how many components were merged away or split.
    """
    factor = state.statistics.size / sample.shape[0]

    def evaluate(candidate: State) -> float:
        variational = model.build(candidate)
        evidence = run_local_step(model, variational, sample, chunk_size, screened=True).evidence
        return float(evidence * factor - variational.kl)

    state, merged = _merge(model, state, sample, chunk_size, evaluate)
    state, split = _split(model, state, sample, chunk_size, evaluate, generator)
    ordered = state.statistics.select(sort_components(state.statistics.counts))
    return model.update(ordered, state.alpha_rate), merged + split


def _merge(
    model: Model, state: State, sample: Tensor, chunk_size: int, evaluate: Callable[[State], float]
) -> tuple[State, int]:
    """Merge in rounds until no merge pays."""
    accepted = 0
    for _ in range(MAX_ROUNDS):
        tree = propose_merges(model, state)
        if not tree.children:
            break
        entropy = _measure(model, state, sample, chunk_size, tree)
        state, merged = accept_merges(model, state, tree, entropy, evaluate)
        accepted += int(tree.groups[merged].sum()) - len(merged)
        if not merged:
            break
    return state, accepted


def _split(
    model: Model,
    state: State,
    sample: Tensor,
    chunk_size: int,
    evaluate: Callable[[State], float],
    generator: torch.Generator,
) -> tuple[State, int]:
    """Split once; the next epoch settles the halves before any is split again."""
    factor = state.statistics.size / sample.shape[0]
    labels = reduce_log_prob(model, model.build(state), sample, chunk_size, lambda x: x.argmax(1))
    splits = propose_splits(model, sample, labels, factor, state.statistics.counts.shape[0], generator)
    if not splits:
        return state, 0
    tree = propose_merges(model, state)
    leaves = [i for i, children in enumerate(tree.children) if max(children) < 0]
    pairs = MergeTree(tree.groups[leaves], [tree.children[i] for i in leaves])
    entropy = _measure(model, state, sample, chunk_size, pairs)
    return accept_splits(model, state, trade_splits(model, state, splits, pairs, entropy), evaluate)


def _measure(model: Model, state: State, sample: Tensor, chunk_size: int, tree: MergeTree) -> Tensor:
    """The entropy of each group's joint assignment over the data set, (C,), nats."""
    factor = state.statistics.size / sample.shape[0]
    return run_local_step(model, model.build(state), sample, chunk_size, tree.groups).group_entropy * factor
