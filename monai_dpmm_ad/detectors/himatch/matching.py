# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The arithmetic of hierarchical matching: local similarity, maps of one stage, their uncertainty and fusion.

All embeddings are unit vectors, so that products are cosines. n query patches, m reference patches, C centroids,
S stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.ops.kmeans import fit_kmeans

__all__ = ["cluster_patches", "compare_locally", "compute_uncertainty", "fuse_maps", "score_left_out"]


def compare_locally(query: Tensor, references: Sequence[Tensor]) -> Tensor:
    """Compute, for each reference, the mean over query patches of the best cosine among its patches.

    Args:
        query: (n, D), n ≥ 1.
        references: L tensors (m, D), m ≥ 1.

    Returns:
        (L,), in [−1, 1].
    """
    return torch.stack([(query @ patches.T).amax(1).mean() for patches in references])


def cluster_patches(patches: Tensor, num_clusters: int) -> Tensor:
    """Compute unit centroids of patches by k-means with fixed seeds.

    Args:
        patches: (m, D), m ≥ 1.
        num_clusters: C; 0 leaves the patches as they are.

    Returns:
        (≤ C, D): fewer where there are fewer distinct patches.
    """
    if not num_clusters:
        return patches
    generator = torch.Generator().manual_seed(0)
    return F.normalize(fit_kmeans(patches, num_clusters, generator).centres, dim=1)


def compute_uncertainty(similarities: Tensor, temperature: float) -> Tensor:
    """Compute how undecided patches are between centroids, half from the patch and half from its map's mean.

    u = ½ (H + mean H), H the entropy of softmax(similarities / temperature) divided by log C.

    Args:
        similarities: (n, C), cosines to all centroids.
        temperature: of the softmax, > 0.

    Returns:
        (n,), in [0, 1]; 0 for a single centroid.
    """
    if similarities.shape[1] == 1:
        return similarities.new_zeros(similarities.shape[0])
    log_shares = F.log_softmax(similarities / temperature, dim=1)
    entropy = -(log_shares.exp() * log_shares).sum(1) / math.log(similarities.shape[1])
    return (entropy + entropy.mean()) / 2


def fuse_maps(maps: Tensor, uncertainty: Tensor | None, temperature: float) -> Tensor:
    """Average the maps of all stages, weighted by softmax(−uncertainty / temperature) over stages, patch by patch.

    Args:
        maps: (S, n).
        uncertainty: (S, n); None weighs all stages alike.
        temperature: T > 0.

    Returns:
        (n,).
    """
    if uncertainty is None:
        return maps.mean(0)
    return (maps * (-uncertainty / temperature).softmax(0)).sum(0)


def score_left_out(supports: Sequence[Tensor], num_clusters: int) -> Tensor:
    """Score each support image's patches against the centroids of the others, of one stage.

    Args:
        supports: K ≥ 2 tensors (m, D).
        num_clusters: as for `cluster_patches`.

    Returns:
        (Σ m,), 1 − best cosine.
    """
    scores = []
    for number, patches in enumerate(supports):
        others = [other for place, other in enumerate(supports) if place != number]
        centroids = cluster_patches(torch.cat(others), num_clusters)
        scores.append(1 - (patches @ centroids.T).amax(1))
    return torch.cat(scores)
