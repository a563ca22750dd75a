# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Agglomerative grouping of descriptors, with the number of groups given or chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cut_tree
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import silhouette_score

from monai_dpmm_ad.errors import unknown_option

__all__ = ["LINKAGES", "Grouping", "group_descriptors"]

LINKAGES = ("ward", "average", "complete", "single")


@dataclass(frozen=True)
class Grouping:
    """Groups of instances.

    Args:
        labels: (n,), from 0, by falling size.
        distances: (n,), of each instance to its group's mean; the smallest is the most typical.
        silhouettes: mean silhouette of each number of groups that was tried; empty where the number was given.
        merges: (n − 1, 4), the tree in scipy's form: two nodes, their distance, the size.
    """

    labels: NDArray[np.int64]
    distances: NDArray[np.float64]
    silhouettes: dict[int, float]
    merges: NDArray[np.float64]

    @property
    def num_clusters(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1


def group_descriptors(
    descriptors: NDArray[np.float64], num_clusters: int | None = None, linkage: str = "ward", max_clusters: int = 10
) -> Grouping:
    """Group descriptors by agglomeration on Euclidean distances.

    Args:
        descriptors: (n, D), n ≥ 2.
        num_clusters: number of groups; None chooses the highest mean silhouette among 2 to ``max_clusters`` (two
            instances become two groups, identical ones a single group).
        linkage: ``ward``, ``average``, ``complete`` or ``single``.
        max_clusters: largest number that is tried.

    Raises:
        ValueError: a single instance, more groups than instances, values that are not finite, or an unknown linkage.

    Reference:
        Sohn et al. 2023, section 3.1 (Ward); Rousseeuw 1987, Silhouettes.
    """
    n = len(descriptors)
    if linkage not in LINKAGES:
        raise unknown_option("linkage", linkage, LINKAGES)
    if descriptors.ndim != 2 or n < 2:
        raise ValueError(
            f"`descriptors` must have shape (n, D) with n ≥ 2, got {descriptors.shape}. Give at least two items."
        )
    if num_clusters is not None and not 1 <= num_clusters <= n:
        raise ValueError(f"`num_clusters` must lie between 1 and the number of items {n}, got {num_clusters}.")
    if not np.isfinite(descriptors).all():
        raise ValueError("`descriptors` must be finite, got NaN or infinity.")
    merges = _build_tree(descriptors, linkage)
    silhouettes: dict[int, float] = {}
    if num_clusters is None and n > 2 and np.ptp(descriptors, axis=0).any():
        for number in range(2, min(max_clusters, n - 1) + 1):
            silhouettes[number] = float(silhouette_score(descriptors, _cut(merges, number)))
        num_clusters = max(silhouettes, key=lambda number: (silhouettes[number], -number))
    elif num_clusters is None:
        num_clusters = 2 if np.ptp(descriptors, axis=0).any() else 1
    labels = _cut(merges, num_clusters)
    means = np.stack([descriptors[labels == label].mean(0) for label in range(num_clusters)])
    return Grouping(labels, np.linalg.norm(descriptors - means[labels], axis=1), silhouettes, merges)


def _build_tree(descriptors: NDArray[np.float64], linkage: str) -> NDArray[np.float64]:
    tree = AgglomerativeClustering(n_clusters=None, distance_threshold=0.0, linkage=linkage).fit(descriptors)
    n = len(descriptors)
    sizes = np.ones(2 * n - 1)
    for node, (left, right) in enumerate(tree.children_, start=n):
        sizes[node] = sizes[left] + sizes[right]
    # Rounding may make a merge a hair shorter than the one before; scipy wants none.
    heights = np.maximum.accumulate(tree.distances_)
    return np.column_stack([tree.children_, heights, sizes[n:]]).astype(np.float64)


def _cut(merges: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """Labels by falling group size, then by first instance."""
    raw = cut_tree(merges, number)[:, 0]
    found, first, counts = np.unique(raw, return_index=True, return_counts=True)
    order = found[np.lexsort((first, -counts))]
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[raw]
