# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Where a fit starts: a sample over the whole data set, its scale, and k-means on it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import DataScale, Family
from monai_dpmm_ad.mixture.seeding import label_sample
from monai_dpmm_ad.mixture.statistics import Statistics, zero_statistics

__all__ = ["compute_data_scale", "compute_hard_statistics", "draw_sample", "drop_far_rows"]
__all__ += ["seed_labels", "seed_statistics"]

RELATIVE_VARIANCE = 1e-12  # of the mean squared length: what stands for the variance of constant data
CONSTANT = 1e-8  # of that: less is no variance but rounding of the mean
MEDIAN_ROWS = 4096
FAR = 1e3  # times the median squared distance from the middle: a row further off says nothing of the data's scale


def draw_sample(batches: Iterable[Tensor], size: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Draw rows uniformly and without replacement from a stream, in one pass.

    Every row gets a random key; the rows with the smallest keys stay.

    Args:
        batches: tensors (n, D).
        size: how many rows to draw.
        generator: the source of randomness, a CPU generator.

    Returns:
        the sample (≤ size, D) and the number of rows seen.

    Raises:
        ValueError: if the stream is empty.
    """
    sample: Tensor | None = None
    keys = torch.empty(0, dtype=torch.float64)
    seen = 0
    for batch in batches:
        seen += batch.shape[0]
        keys = torch.cat([keys, torch.rand(batch.shape[0], generator=generator, dtype=torch.float64)])
        keys, kept = torch.topk(keys, min(size, keys.shape[0]), largest=False)
        if sample is None:
            sample = batch[kept.to(batch.device)].clone()
            continue
        # Most of a later batch is never copied: only the rows that stay.
        old, new = kept < sample.shape[0], kept >= sample.shape[0]
        merged = sample.new_empty(kept.shape[0], sample.shape[1])
        merged[old.to(sample.device)] = sample[kept[old].to(sample.device)]
        merged[new.to(sample.device)] = batch[(kept[new] - sample.shape[0]).to(batch.device)].to(sample)
        sample = merged
    if sample is None or seen == 0:
        raise ValueError(
            "`batches` must hold at least one embedding, got none. Check the folder or store they come from."
        )
    return sample, seen


def drop_far_rows(sample: Tensor) -> Tensor:
    """Leave out rows far from all others, any of which would widen the prior of every component.

    Args:
        sample: (n, D).

    Returns:
        (≤ n, D), at least half of the rows.
    """
    middle = sample[:: -(-len(sample) // MEDIAN_ROWS)].median(0).values
    distance = (sample - middle).square().sum(1)
    return sample[distance <= FAR * distance.median()]


def compute_data_scale(sample: Tensor) -> DataScale:
    """Compute mean and variance per dimension, float64, with a positive least variance.

    Args:
        sample: (n, D), without rows far off.

    Returns:
        the scale; dimensions that never vary get a tiny share of the mean squared length instead of zero.

    Raises:
        ValueError: if the rows lie so far from the origin that float32 does not resolve how they differ.
    """
    x = sample.double()
    mean = x.mean(0)
    variance = (x - mean).square().mean(0)
    floor = RELATIVE_VARIANCE * x.square().mean()
    if CONSTANT * floor < variance.mean() < floor:
        raise ValueError(
            "Embeddings must differ by more than float32 resolves, got a spread of "
            f"{float(variance.mean().sqrt()):.3g} at {float(x.square().mean().sqrt()):.3g} from the origin. "
            "Subtract their mean first, in float64."
        )
    return DataScale(mean, variance.clamp(min=1e-3 * variance.mean()).clamp(min=floor).clamp(min=1e-30))


def seed_statistics(
    family: Family, scale: DataScale, sample: Tensor, num_components: int, generator: torch.Generator
) -> Statistics:
    """Cluster a sample by k-means and take each cluster's statistics, the largest cluster first.

    Args:
        family: the component likelihood.
        scale: of the sample.
        sample: (n, D).
        num_components: K; clusters beyond the number of distinct points stay empty.
        generator: the source of randomness, a CPU generator.

    Returns:
        statistics of the sample, not scaled, with zero entropy.
    """
    labels = seed_labels(scale, sample, num_components, generator)
    statistics = compute_hard_statistics(family, scale, sample, labels, num_components)
    return statistics.select(statistics.counts.argsort(descending=True, stable=True))


def seed_labels(scale: DataScale, sample: Tensor, num_components: int, generator: torch.Generator) -> Tensor:
    """Cluster a sample by k-means: (n,), labels in 0 … K−1; the arguments are `seed_statistics`'s."""
    return label_sample(scale.to(sample.dtype).place(sample), num_components, generator)


def compute_hard_statistics(
    family: Family, scale: DataScale, x: Tensor, labels: Tensor, num_components: int, chunk_size: int = 4096
) -> Statistics:
    """Compute the statistics of labelled data.

    Args:
        family: the component likelihood.
        scale: the coordinates.
        x: (n, D).
        labels: (n,), in 0 … K−1.
        num_components: K.
        chunk_size: rows at a time.

    Returns:
        statistics with zero entropy.
    """
    total = zero_statistics(num_components, family.num_features, x.device)
    counts = torch.bincount(labels, minlength=num_components).to(total.counts)
    scale = scale.to(x.dtype)
    for rows, assigned in zip(x.split(chunk_size), labels.split(chunk_size), strict=True):
        features = family.make_features(rows, scale)
        family.collect_features(assigned, features, total.sums)
    return total._replace(counts=counts, size=counts.sum())
