# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""k-means for many clusters of a large sample, to start a mixture from: seeds in rounds, products in bfloat16.

k-means++ takes one seed at a time, each a pass over the points that no matrix product can speed up. Here it makes the
first few, on which most depends; then a round draws an eighth as many seeds as there are already, so that their
distances are one product: thirty rounds for two thousand clusters. Which centre is nearest is asked in bfloat16, where
the processor has it: a point that lies between two centres may go to either.

Reference:
    Arthur and Vassilvitskii 2007, k-means++: the advantages of careful seeding; Bahmani et al. 2012, Scalable k-means,
    for drawing many seeds a round. Rounds that grow with what is chosen, so that nothing has to be thinned, are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.screening import find_largest
from monai_dpmm_ad.ops.kmeans import seed_kmeans
from monai_dpmm_ad.ops.precision import supports_bfloat16

__all__ = ["assign_nearest", "label_sample", "seed_in_rounds"]

LLOYD_ITERATIONS = 5
ROWS_PER_CLUSTER = 16  # seeding and Lloyd look at so many rows; the rest are only assigned
LEAST_SEEDED, LEAST_ROWS = 4096, 20_000  # rows for seeding and for Lloyd however few the clusters
GREEDY = 64  # seeds of greedy k-means++
GROWTH = 8  # a round adds one seed for every eight that there are
CHUNK_SIZE = 4096


def label_sample(x: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Cluster points by k-means.

    Args:
        x: (n, D), centred.
        num_clusters: K.
        generator: the source of randomness, a CPU generator.

    Returns:
        (n,), labels in 0 … K−1; where points have fewer distinct values than K, some clusters stay empty.
    """
    size = max(ROWS_PER_CLUSTER * num_clusters, LEAST_ROWS)
    pool = x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]
    centres = seed_in_rounds(pool[: max(ROWS_PER_CLUSTER * num_clusters, LEAST_SEEDED)], num_clusters, generator)
    for _ in range(LLOYD_ITERATIONS):
        labels = assign_nearest(pool, centres)
        counts = torch.bincount(labels, minlength=len(centres)).clamp(min=1).to(x.dtype)[:, None]
        means = torch.zeros_like(centres).index_add_(0, labels, pool) / counts
        centres = torch.where(torch.bincount(labels, minlength=len(centres))[:, None] > 0, means, centres)
    return assign_nearest(x, centres)


def seed_in_rounds(x: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Choose centres among points, each with probability proportional to its squared distance from those before.

    Args:
        x: (n, D), centred.
        num_clusters: K.
        generator: the source of randomness, a CPU generator: the draw does not depend on the device.

    Returns:
        (≤ K, D): fewer where the points have fewer distinct values.
    """
    squares = x.square().sum(1)
    centres = seed_kmeans(x[:LEAST_SEEDED], min(num_clusters, GREEDY), generator)
    nearest = _measure_nearest(x, squares, centres)
    while len(centres) < min(num_clusters, len(x)):
        cumulative = nearest.cumsum(0, dtype=torch.float64)
        if not float(cumulative[-1]) > 0.0:
            break
        count = min(max(len(centres) // GROWTH, 1), num_clusters - len(centres))
        uniform = torch.rand(count, generator=generator, dtype=torch.float64).to(x.device)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp_(max=len(x) - 1).unique()
        centres = torch.cat([centres, x[drawn]])
        nearest = torch.minimum(nearest, _measure_nearest(x, squares, x[drawn])).index_fill_(0, drawn, 0.0)
    return centres


def assign_nearest(x: Tensor, centres: Tensor) -> Tensor:
    """Find each point's nearest centre, or one that is hardly further.

    Args:
        x: (n, D), centred, so that rounding is that of the distances.
        centres: (K, D).

    Returns:
        (n,), indices.
    """
    short = x.dtype == torch.float32 and supports_bfloat16(x.device)
    dtype = torch.bfloat16 if short else x.dtype
    weight = centres.to(dtype).T
    offset = -0.5 * centres.square().sum(1)
    return torch.cat([find_largest(torch.add(rows.to(dtype) @ weight, offset)) for rows in x.split(CHUNK_SIZE)])


def _measure_nearest(x: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """The squared distance of each point (n, D), whose squared lengths are known, to the nearest centre, (n,)."""
    offset = centres.square().sum(1)
    parts = [torch.addmm(offset, rows, centres.T, alpha=-2.0).amin(1) for rows in x.split(CHUNK_SIZE)]
    return torch.cat(parts).add_(squares).clamp_(min=0.0)
