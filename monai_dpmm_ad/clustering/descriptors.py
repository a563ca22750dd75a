# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a bag of patch embeddings to one vector: patches that look anomalous weigh more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from monai_dpmm_ad.ops.distances import CHUNK_SIZE, nearest_euclidean_distance, squared_distances

__all__ = ["compute_descriptor", "compute_weights", "score_against_normal", "score_against_others"]


def score_against_others(
    bags: Sequence[Tensor],
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
    chunk_size: int = CHUNK_SIZE,
) -> list[Tensor]:
    """Score each patch by its mean distance to the other images' nearest patches.

        a_i = 1/(M − 1) Σ_{m ≠ own image} min_{y ∈ bag m} ‖y_i − y‖

    Args:
        bags: M bags (n_m, D), M ≥ 2, none of them empty.
        track: wraps the range of bags, for a progress bar.
        chunk_size: rows at a time.

    Returns:
        M score vectors (n_m,), in the unit of the embeddings.

    Raises:
        ValueError: fewer than two bags, or an empty one.

    Reference:
        Sohn et al., WACV 2023, arXiv 2112.11573, section 3.2.
    """
    if len(bags) < 2:
        raise ValueError(f"`bags` must be at least 2, got {len(bags)}. One image has no others to differ from.")
    if any(len(bag) == 0 for bag in bags):
        raise ValueError("`bags` must not be empty, got one without patches. Leave that image out.")
    totals = [bag.new_zeros(len(bag)) for bag in bags]
    for i in track(range(len(bags))):
        for j in range(i + 1, len(bags)):  # one product serves both directions
            forward, backward = _nearest_both_ways(bags[i], bags[j], chunk_size)
            totals[i] += forward
            totals[j] += backward
    return [total / (len(bags) - 1) for total in totals]


def _nearest_both_ways(first: Tensor, second: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Distances (n,) of the first bag's patches to the second bag, and (m,) the other way round."""
    forward, backward = [], second.new_full((len(second),), torch.inf)
    for rows in first.split(chunk_size):
        squared = squared_distances(rows, second)
        forward.append(squared.amin(1))
        backward = torch.minimum(backward, squared.amin(0))
    return torch.cat(forward).sqrt(), backward.sqrt()


def score_against_normal(bags: Sequence[Tensor], normal: Tensor, chunk_size: int = CHUNK_SIZE) -> list[Tensor]:
    """Score each patch by its distance to the nearest normal patch.

    Args:
        bags: bags (n_m, D).
        normal: (N, D), N ≥ 1, patches of normal images.
        chunk_size: rows at a time.

    Returns:
        Score vectors (n_m,), in the unit of the embeddings.

    Raises:
        ValueError: no normal patch, or other dimensions than the bags'.

    Reference:
        Sohn et al. 2023, section 3.3.
    """
    chunk = max(1, chunk_size * 512 // max(len(normal), 512))
    return [nearest_euclidean_distance(bag, normal, chunk) for bag in bags]


def compute_weights(scores: Tensor, tau: float, coverage: Tensor | None = None) -> Tensor:
    """Compute w_i ∝ c_i exp(a_i / τ).

    Args:
        scores: (n,), a.
        tau: τ > 0, in the unit of the scores. Towards 0 the highest score takes all; infinity weighs all alike.
        coverage: (n,), c: share of each patch that belongs to the instance **(ours)**; all of it where not given.

    Returns:
        (n,), sums to 1.

    Raises:
        ValueError: τ that is not positive.

    Example:
        >>> compute_weights(torch.tensor([0.0, 1.0]), torch.inf)
        tensor([0.5000, 0.5000])
    """
    if not tau > 0:
        raise ValueError(f"`tau` must be positive, got {tau}. Infinity gives the plain mean.")
    exponents = scores / tau
    return torch.softmax(exponents if coverage is None else exponents + coverage.log(), 0)


def compute_descriptor(bag: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted mean (D,) of a bag (n, D) with weights (n,)."""
    return weights @ bag
