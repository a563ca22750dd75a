# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Bins for nonnegative scores of unknown range, and sums of sparse histograms.

The bit pattern of a nonnegative float32 grows with its value, so the leading bits are a bin number: bins are spaced
logarithmically, their relative width is ``2^-m`` for m mantissa bits, no range has to be known in advance, and
histograms of different scans or processes add up. The huge number of exact zeros (background) has a bin of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_dpmm_ad.ops.slabs import slab_bounds

__all__ = ["COARSE", "EXACT", "FINE", "ScoreBinning", "SparseSum", "count_keys", "count_scores"]

_MANTISSA = 23
_BIAS = 127
_OCTAVES = 32  # finite bins cover [2^-32, 2^32); what lies outside falls into the first or the last one


@dataclass(frozen=True)
class ScoreBinning:
    """Map nonnegative float32 scores to integer keys that keep their order.

    Args:
        mantissa_bits: bins per octave = ``2^mantissa_bits``; 23 keeps every bit (one key per float32 value).

    Key 0 is the score 0 alone. With fewer than 23 bits, positive scores below ``2^-32`` share key 1 and scores from
    ``2^32`` on share the last key.
    """

    mantissa_bits: int

    @property
    def exact(self) -> bool:
        """Whether two different float32 scores always have different keys."""
        return self.mantissa_bits == _MANTISSA

    @property
    def num_bins(self) -> int:
        """Number of keys."""
        return 0x7F800001 if self.exact else ((2 * _OCTAVES) << self.mantissa_bits) + 2

    @property
    def _offset(self) -> int:
        return 0 if self.exact else ((_BIAS - _OCTAVES) << self.mantissa_bits) - 1

    def keys(self, scores: np.ndarray) -> np.ndarray:
        """Compute the keys of nonnegative scores.

        Args:
            scores: float32, any shape, finite and nonnegative.

        Returns:
            int64 keys, same shape.
        """
        scores = np.ascontiguousarray(scores, dtype=np.float32)
        keys = (scores.view(np.uint32) >> np.uint32(_MANTISSA - self.mantissa_bits)).astype(np.int64)
        if self.exact:
            return np.where(scores > 0, keys, 0)  # the bit pattern of -0.0 is not 0
        keys -= self._offset
        np.clip(keys, 1, self.num_bins - 1, out=keys)
        keys[scores <= 0] = 0
        return keys

    def lower(self, keys: np.ndarray) -> np.ndarray:
        """Return the smallest score of each bin (of the first finite bin for what lies below it), float32."""
        keys = np.asarray(keys, dtype=np.int64)
        bits = (keys + self._offset) << (_MANTISSA - self.mantissa_bits)
        return np.where(keys > 0, bits, 0).astype(np.uint32).view(np.float32)

    def upper(self, keys: np.ndarray) -> np.ndarray:
        """Return the largest score of each bin, float32: ``score > upper(k)`` is the same as ``key > k``.

        The last bin has no upper edge but infinity.
        """
        keys = np.asarray(keys, dtype=np.int64)
        bits = ((keys + 1 + self._offset) << (_MANTISSA - self.mantissa_bits)) - 1
        edges = np.where(keys > 0, bits, 0).astype(np.uint32).view(np.float32)
        return edges if self.exact else np.where(keys >= self.num_bins - 1, np.float32(np.inf), edges)


EXACT = ScoreBinning(_MANTISSA)
FINE = ScoreBinning(16)  # relative width 1.5e-5, 4 194 306 bins: pooled histograms
COARSE = ScoreBinning(11)  # relative width 4.9e-4, 131 074 bins: one histogram per scan


def count_keys(keys: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Count (or sum weights of) equal keys.

    Args:
        keys: int64, (N,).
        weights: float64, (N,); ones if None.

    Returns:
        The distinct keys in ascending order and, per key, its count (int64) or sum of weights (float64).
    """
    if keys.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64 if weights is None else np.float64)
    first = int(keys.min())
    span = int(keys.max()) - first + 1
    # Sorting few keys is cheaper than walking through many empty bins; exact keys would need gigabytes of them.
    if span > min(32 * keys.size, 1 << 22):
        if weights is None:
            return np.unique(keys, return_counts=True)
        distinct, inverse = np.unique(keys, return_inverse=True)
        return distinct, np.bincount(inverse, weights=weights, minlength=distinct.size)
    shifted = keys - first
    counts = np.bincount(shifted)  # by number of members, so that a key whose weights are 0 stays
    present = np.flatnonzero(counts)
    sums = counts if weights is None else np.bincount(shifted, weights=weights)
    return present + first, sums[present]


def count_scores(scores: np.ndarray, inside: np.ndarray | None, binning: ScoreBinning) -> tuple[np.ndarray, np.ndarray]:
    """Count the keys of an image's scores, slab by slab: keys take several times the memory of scores.

    Args:
        scores: float32, any shape, finite and nonnegative.
        inside: boolean, same shape, of the scores that count; None for all.
        binning: of the scores.

    Returns:
        The distinct keys in ascending order and the count of each, int64.
    """
    total = SparseSum(width=1)
    for slab in slab_bounds(scores.shape):
        keys, counts = count_keys(binning.keys(scores[slab] if inside is None else scores[slab][inside[slab]]).ravel())
        total.add(keys, counts[:, None])
    keys, sums = total.result()
    return keys, sums[:, 0].astype(np.int64)


class SparseSum:
    """Running sum of sparse histograms: memory follows the number of distinct keys.

    Args:
        width: numbers per key.

    Example:
        >>> total = SparseSum(width=1)
        >>> total.add([3, 5], [[1.0], [2.0]])
        >>> total.add([5, 9], [[1.0], [4.0]])
        >>> [a.ravel().tolist() for a in total.result()]
        [[3, 5, 9], [1.0, 3.0, 4.0]]
    """

    def __init__(self, width: int) -> None:
        self._keys: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._values: list[np.ndarray] = [np.zeros((0, width))]
        self._pending = 0

    def add(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Add ``values`` (n, width) at ``keys`` (n,)."""
        self._keys.append(np.asarray(keys, dtype=np.int64))
        self._values.append(np.asarray(values, dtype=np.float64))
        self._pending += len(keys)
        # Merging only when the tail has outgrown the total keeps the cost per added key constant.
        if self._pending > max(len(self._keys[0]), 1 << 20):
            self.result()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct keys in ascending order (n,) and their sums (n, width)."""
        if len(self._keys) > 1:
            joined, values = np.concatenate(self._keys), np.concatenate(self._values)
            keys, _ = count_keys(joined)
            sums = np.stack([count_keys(joined, column)[1] for column in values.T], axis=1)
            self._keys, self._values, self._pending = [keys], [sums], 0
        return self._keys[0], self._values[0]
