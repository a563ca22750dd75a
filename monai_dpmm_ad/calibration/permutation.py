# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether two samples of scans come from one distribution: a test that is exact whatever the distribution."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["permutation_test", "smallest_p_value"]

Array = NDArray[np.float64]
_PERMUTATIONS = 4999


def permutation_test(one: Array, two: Array, seed: int = 0, permutations: int = _PERMUTATIONS) -> float:
    """Test by the energy distance whether two samples come from one distribution.

    Args:
        one: ``(n, F)``.
        two: ``(m, F)``.
        seed: of the permutations.
        permutations: how many beside the one that was observed; all that there are, where they are no more.

    Returns:
        p in (0, 1]; P(p ≤ a) ≤ a where rows are exchangeable.

    Reference:
        Székely and Rizzo 2004, Testing for equal distributions in high dimension. Exactness with random permutations:
        Phipson and Smyth 2010.
    """
    rows = np.concatenate([one, two])
    squares = (rows**2).sum(1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0))
    labels = _label(len(one), len(two), seed, permutations)
    between = labels @ distance
    inside = (between * labels).sum(1)
    across = between.sum(1) - inside
    outside = distance.sum() - inside - 2 * across
    n, m = len(one), len(two)
    energy = 2 * across / (n * m) - inside / m**2 - outside / n**2
    # Permutations that are equal by symmetry differ by rounding; the tolerance counts them as equal.
    return float((energy >= energy[0] - 1e-9 * max(1.0, abs(energy[0]))).mean())


def _label(n: int, m: int, seed: int, permutations: int) -> Array:
    """Ways of choosing m of n + m rows, each a row of zeros and ones; the first is the one that was observed."""
    if math.comb(n + m, m) <= permutations:
        chosen = np.array(list(combinations(reversed(range(n + m)), m)))
    else:
        order = np.random.default_rng(seed).random((permutations, n + m)).argsort(axis=1)
        chosen = np.concatenate([np.arange(n, n + m)[None], order[:, :m]])
    labels = np.zeros((len(chosen), n + m))
    np.put_along_axis(labels, chosen, 1, axis=1)
    return labels


def smallest_p_value(n: int, m: int) -> float:
    """The smallest p-value that a permutation test with samples of n and m can give.

    That is one of all its permutations; two where the samples are as many, since exchanging them changes nothing.

    Example:
        >>> smallest_p_value(2, 3), smallest_p_value(3, 3)
        (0.1, 0.1)
    """
    ways = math.comb(n + m, m)
    return (1 + (n == m)) / ways if ways <= _PERMUTATIONS else 1 / (_PERMUTATIONS + 1)
