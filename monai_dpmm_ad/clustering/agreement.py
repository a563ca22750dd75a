# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How far groups agree with known types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

__all__ = ["compute_agreement"]


def compute_agreement(labels: NDArray[np.int64] | Sequence[int], types: Sequence[str]) -> dict[str, float]:
    """Compare groups with types.

    For F1 each group is matched with one type at most so that as many instances as possible agree (Hungarian method);
    instances of unmatched groups count as wrong; the mean is over the types.

    Args:
        labels: (n,), group of each instance.
        types: (n,), type of each instance.

    Returns:
        ``nmi``, ``ari``, ``f1``.

    Raises:
        ValueError: different lengths, or nothing to compare.

    Reference:
        Sohn et al. 2023, section 4.1.

    Example:
        >>> compute_agreement([1, 1, 0], ["a", "a", "b"])
        {'nmi': 1.0, 'ari': 1.0, 'f1': 1.0}
    """
    if len(labels) != len(types) or not len(types):
        raise ValueError(f"`types` must be as many as the {len(labels)} labels and at least one, got {len(types)}.")
    names, numbers = np.unique(np.asarray(types, dtype=str), return_inverse=True)
    table = contingency_matrix(numbers, labels)
    rows, columns = linear_sum_assignment(-table)
    groups = np.unique(labels)
    matched = np.full(len(numbers), -1)
    for row, column in zip(rows, columns, strict=True):
        matched[np.asarray(labels) == groups[column]] = row
    return {
        "nmi": float(normalized_mutual_info_score(numbers, labels)),
        "ari": float(adjusted_rand_score(numbers, labels)),
        "f1": float(f1_score(numbers, matched, labels=range(len(names)), average="macro", zero_division=0)),
    }
