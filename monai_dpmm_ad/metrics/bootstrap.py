# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Bootstrap over scans: replicates are weighted sums of per-scan histograms.

Scans, not pixels, are what a study draws at random, so scans are resampled, with replacement and within each class
(abnormal, normal, unknown): every replicate has both classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["compute_interval", "group_bins", "sample_weights", "sum_replicates"]

_CHUNK = 64  # scans whose dense rows exist at one time


def sample_weights(strata: Sequence[int], num_replicates: int, seed: int) -> np.ndarray:
    """Sample how often each scan occurs in each replicate.

    Args:
        strata: (n,) class of each scan.
        num_replicates: R.
        seed: of the generator.

    Returns:
        (R, n) float64; (0, n) if a class has a single scan, whose variation cannot be known.
    """
    rng = np.random.default_rng(seed)
    classes = np.asarray(strata)
    weights = np.zeros((num_replicates, classes.size))
    for value in np.unique(classes):
        members = np.flatnonzero(classes == value)
        if members.size == 1:
            return weights[:0]
        weights[:, members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size), num_replicates)
    return weights


def group_bins(mass: np.ndarray, max_bins: int) -> np.ndarray:
    """Choose at most ``max_bins`` (about) groups of consecutive bins with equal mass.

    Args:
        mass: (n,) nonnegative, total 1.
        max_bins: number of groups aimed at.

    Returns:
        Ascending indices at which a group starts, the first one 0.
    """
    before = np.cumsum(mass) - mass
    group = np.floor(before * max_bins)
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))


def sum_replicates(weights: np.ndarray, rows: Sequence[tuple[np.ndarray, np.ndarray]], edges: np.ndarray) -> np.ndarray:
    """Sum per-scan sparse histograms with each replicate's weights.

    Args:
        weights: (R, n).
        rows: per scan its ascending keys and values.
        edges: (b,) ascending smallest keys of the groups; keys below the first belong to the first.

    Returns:
        (R, b).
    """
    total = np.zeros((weights.shape[0], edges.size))
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        dense = np.zeros((len(chunk), edges.size))
        for line, (keys, values) in zip(dense, chunk, strict=True):
            bins = np.maximum(np.searchsorted(edges, keys, side="right") - 1, 0)
            line += np.bincount(bins, values, minlength=edges.size)
        total += weights[:, start : start + len(chunk)] @ dense
    return total


def compute_interval(values: np.ndarray, level: float = 0.95) -> list[float] | None:
    """Percentile interval of replicates; None if fewer than half of them exist (are not NaN)."""
    known = values[~np.isnan(values)]
    if known.size < 2 or known.size < 0.5 * values.size:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
