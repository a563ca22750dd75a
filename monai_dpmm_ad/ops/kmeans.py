# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""k-means++ seeding and Lloyd's k-means on tensors, on any device, in chunks of rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.ops.distances import CHUNK_SIZE, nearest_centres

__all__ = ["KMeans", "fit_kmeans", "seed_kmeans"]


class KMeans(NamedTuple):
    """The result of k-means.

    Args:
        centres: (K, D); fewer rows than asked for where the data have fewer distinct points.
        labels: (N,), the nearest centre of each point.
        inertia: 0-dim, the sum of squared distances to the nearest centre.
    """

    centres: Tensor
    labels: Tensor
    inertia: Tensor


def seed_kmeans(x: Tensor, num_clusters: int, generator: torch.Generator, num_candidates: int = 4) -> Tensor:
    """Choose centres among the points by greedy k-means++.

    Each centre is the best of a few candidates drawn with probability proportional to their squared distance from
    the centres so far.

    Args:
        x: (N, D).
        num_clusters: K, the number of centres to choose.
        generator: the source of randomness, a CPU generator: the draw does not depend on the device.
        num_candidates: candidates per centre; 1 is plain k-means++.

    Returns:
        (≤ K, D): fewer rows where the points have fewer than K distinct values.

    Raises:
        ValueError: if there are no points or ``num_clusters`` is not positive.

    Reference:
        Arthur and Vassilvitskii 2007, k-means++: the advantages of careful seeding, section 2.2 and the greedy
        variant of the conclusion.
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"`x` must have shape (N, D) with N ≥ 1, got {tuple(x.shape)}.")
    if num_clusters < 1:
        raise ValueError(f"`num_clusters` must be positive, got {num_clusters}.")
    total = min(num_clusters, x.shape[0])
    uniform = torch.rand(total, num_candidates, generator=generator, dtype=torch.float64).to(x.device)
    norms = x.square().sum(1)

    def distances_to(rows: Tensor) -> Tensor:
        """Squared distances (N, C) from all points to the points with these indices."""
        return torch.addmm(norms[:, None], x, x[rows].T, alpha=-2.0).add_(norms[rows]).clamp_(min=0.0)

    chosen = torch.empty(total, dtype=torch.long, device=x.device)
    chosen[0] = (uniform[0, 0] * x.shape[0]).long()
    nearest = distances_to(chosen[:1])[:, 0]
    for k in range(1, total):
        cumulative = nearest.cumsum(0, dtype=torch.float64)
        candidates = torch.searchsorted(cumulative, uniform[k] * cumulative[-1]).clamp_(max=x.shape[0] - 1)
        updated = torch.minimum(nearest[:, None], distances_to(candidates))
        best = updated.sum(0).argmin()
        chosen[k] = candidates[best]
        nearest = updated[:, best]
    return torch.unique(x[chosen], dim=0)


def fit_kmeans(
    x: Tensor,
    num_clusters: int,
    generator: torch.Generator,
    restarts: int = 1,
    max_iterations: int = 10,
    chunk_size: int = CHUNK_SIZE,
) -> KMeans:
    """Cluster points with Lloyd's algorithm from k-means++ seeds, the best of several restarts.

    A cluster that loses all its points keeps its centre.

    Args:
        x: (N, D).
        num_clusters: K.
        generator: the source of randomness, a CPU generator.
        restarts: how many seedings to try; the one with the least inertia is kept.
        max_iterations: Lloyd iterations per restart.
        chunk_size: rows at a time.

    Returns:
        the centres, labels and inertia of the best restart.

    Raises:
        ValueError: if there are no points, or a number is not positive.
    """
    if restarts < 1:
        raise ValueError(f"`restarts` must be positive, got {restarts}.")
    return min(
        (
            _iterate_lloyd(x, seed_kmeans(x, num_clusters, generator), max_iterations, chunk_size)
            for _ in range(restarts)
        ),
        key=lambda found: float(found.inertia),
    )


def _iterate_lloyd(x: Tensor, centres: Tensor, max_iterations: int, chunk_size: int) -> KMeans:
    """Alternate assignments and means, from ``centres`` (K, D)."""
    for _ in range(max_iterations):
        _, labels = nearest_centres(x, centres, chunk_size)
        sums = torch.zeros_like(centres, dtype=torch.float64).index_add_(0, labels, x.double())
        counts = torch.bincount(labels, minlength=centres.shape[0]).to(sums.dtype)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1.0), centres.double()).to(x.dtype)
    distances, labels = nearest_centres(x, centres, chunk_size)
    return KMeans(centres, labels, distances.sum(dtype=torch.float64))
