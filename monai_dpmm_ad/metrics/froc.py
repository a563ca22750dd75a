# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Per-lesion detection rate against false positives per scan (FROC), at every threshold at once.

A lesion (connected component of the mask) is detected at a threshold if any of its voxels reaches it. A false positive
is a connected component of ``{score ≥ threshold}`` that touches no lesion. Instead of labelling the map once per
threshold, the components' births and mergers are read off a maximum spanning tree: a component is born at a local
maximum and, as the threshold falls, ends where it meets another one; so

    number of components at t = maxima at or above t − tree edges at or above t.

All lesion voxels count as one component that is always there, hence what merges with it stops being a false positive.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from monai_dpmm_ad.ops.basins import climb, find_maxima, find_saddles, number_basins
from monai_dpmm_ad.ops.components import compute_bounding_box

__all__ = ["FROC_BUDGETS", "compute_froc", "compute_sensitivities", "find_false_positive_events"]

FROC_BUDGETS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def find_false_positive_events(
    keys: np.ndarray, lesion: np.ndarray, overwrite: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find where the number of false-positive components of one scan changes.

    Args:
        keys: integers below 2³¹ - 1, 2D or 3D, score bins; 0 is background and never positive.
        lesion: boolean, same shape.
        overwrite: whether ``keys``, where they are int32, may be changed: they take as much memory as the scores.

    Returns:
        Ascending keys (m,) and changes (m,): the number of false positives at threshold key k is the sum of the
        changes at keys ≥ k.

    Reference:
        Components and maximum spanning trees: Najman, Cousty and Perret 2013. False positives per scan: Setio et al.
        2017 (LUNA16), for candidates; here candidates are the components themselves.
    """
    box = compute_bounding_box((keys > 0) | lesion)
    if box is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    height, lesion = keys[box].astype(np.int32, copy=not overwrite), lesion[box]
    top = int(height.max()) + 1
    height[lesion] = top
    roots = climb(height)
    maxima = find_maxima(roots, height)
    is_lesion = lesion.ravel()[maxima]
    # One number for each basin, and 0 for all lesion basins together.
    basins = number_basins(roots, height, maxima, np.where(is_lesion, 0, np.cumsum(~is_lesion)))
    first, second, saddle = find_saddles(basins, height)
    size = int((~is_lesion).sum()) + 1
    graph = coo_matrix((top + 1 - saddle, (first, second)), shape=(size, size))
    merged = (top + 1 - minimum_spanning_tree(graph).data).astype(np.int64)
    born = height.reshape(-1)[maxima[~is_lesion]]
    events, inverse = np.unique(np.concatenate([born, merged]), return_inverse=True)
    changes = np.bincount(inverse, np.repeat([1.0, -1.0], [born.size, merged.size])).astype(np.int64)
    return events[changes != 0], changes[changes != 0]


def compute_froc(
    event_keys: np.ndarray, changes: np.ndarray, lesion_keys: np.ndarray, num_scans: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the FROC curve.

    At low thresholds false positives melt into one component, so their number falls again; the curve therefore uses
    the largest number met on the way down to a threshold.

    Args:
        event_keys: (m,), from :func:`find_false_positive_events`, of all scans.
        changes: (m,).
        lesion_keys: (L,), the key of each lesion's highest score.
        num_scans: number of scans.

    Returns:
        Threshold keys in descending order, the share of lesions detected there, and false positives per scan.
    """
    thresholds = np.unique(np.concatenate([event_keys, lesion_keys]))[::-1]
    thresholds = thresholds[thresholds > 0]
    order = np.argsort(-event_keys, kind="stable")
    totals = np.append(0, np.cumsum(np.asarray(changes, dtype=np.float64)[order]))
    false_positives = totals[np.searchsorted(-event_keys[order], -thresholds, side="right")]
    found = np.searchsorted(np.sort(-lesion_keys), -thresholds, side="right")
    return thresholds, found / max(lesion_keys.size, 1), np.maximum.accumulate(false_positives) / num_scans


def compute_sensitivities(
    sensitivity: np.ndarray, false_positives: np.ndarray, budgets: tuple[float, ...] = FROC_BUDGETS
) -> np.ndarray:
    """Highest detection rate within each budget of false positives per scan, (len(budgets),)."""
    steps = np.searchsorted(false_positives, np.asarray(budgets), side="right")
    return np.append(0.0, sensitivity)[steps]
