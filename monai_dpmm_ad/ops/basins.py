# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Hills of an image: which local maximum each pixel climbs to, and the saddles between neighbouring hills.

What is computed takes one int32 a voxel beside the image: a large volume's neighbours are looked at slab by slab.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.ops.slabs import slab_bounds

__all__ = ["climb", "find_maxima", "find_saddles", "number_basins"]

_PIECE = 1 << 18
Keys = NDArray[np.int32]
Indices = NDArray[np.int64]


def climb(height: Keys) -> NDArray[np.int32]:
    """Find where steepest ascent ends; plateaus climb by index.

    Args:
        height: 2D or 3D, nonnegative, fewer than 2³¹ elements; neighbours share a face, an edge or a corner.

    Returns:
        Flat index, per element, of its local maximum, ``(height.size,)``.
    """
    layer = height[:1].size
    parent = np.empty(height.size, np.int32)
    for slab in slab_bounds(height.shape):
        low, high = max(0, slab.start - 1), min(len(height), slab.stop + 1)
        part = height[low:high].astype(np.int64)
        order = part * height.size + np.arange(low * layer, high * layer).reshape(part.shape)
        for axis in range(order.ndim):  # a 3×3(×3) maximum, one axis after the other
            lines = np.moveaxis(order, axis, 0)
            source = lines.copy()
            np.maximum(lines[1:], source[:-1], out=lines[1:])
            np.maximum(lines[:-1], source[1:], out=lines[:-1])
        inner = order[slab.start - low : slab.stop - low].ravel()
        parent[slab.start * layer : slab.stop * layer] = inner % height.size
    settled = False
    while not settled:  # in place: what has climbed further already only shortens the way
        settled = True
        for piece in slab_bounds(parent.shape, _PIECE):
            higher = parent[parent[piece]]
            if not np.array_equal(higher, parent[piece]):
                parent[piece], settled = higher, False
    return parent


def find_maxima(roots: NDArray[np.int32], height: Keys) -> Indices:
    """Flat indices of the local maxima above 0, ascending; ``roots`` is what :func:`climb` gives for ``height``."""
    flat, found = height.reshape(-1), [np.zeros(0, np.int64)]
    for piece in slab_bounds(roots.shape, _PIECE):
        is_root = roots[piece] == np.arange(piece.start, piece.stop)
        found.append(piece.start + np.flatnonzero(is_root & (flat[piece] > 0)))
    return np.concatenate(found)


def number_basins(roots: NDArray[np.int32], height: Keys, maxima: Indices, numbers: Indices) -> Keys:
    """Give each element the number of its maximum, in place of ``roots``.

    Args:
        roots: from :func:`climb`; is overwritten.
        height: the image.
        maxima: from :func:`find_maxima`.
        numbers: one for each of them, nonnegative.

    Returns:
        int32, of the image's shape; −1 where ``height`` is 0: background climbs too, but belongs to no basin.
    """
    flat = height.reshape(-1)
    roots[maxima] = -2 - numbers  # a place that is looked up has its answer already, below 0
    for piece in slab_bounds(roots.shape, _PIECE):
        found = roots[piece]
        codes = np.where(found < 0, found, roots[np.maximum(found, 0)])
        codes[flat[piece] == 0] = -1
        roots[piece] = codes
    np.subtract(-2, roots, out=roots)
    return roots.reshape(height.shape)


def find_saddles(basins: Keys, height: Keys) -> tuple[Indices, Indices, Indices]:
    """Find the highest level at which each pair of neighbouring basins meets.

    Args:
        basins: from :func:`number_basins`.
        height: the image.

    Returns:
        First basin, second basin and level of each pair, ``(m,)``.
    """
    size, scale = int(basins.max()) + 1, int(height.max()) + 1
    codes = [np.zeros(0, np.int64)]
    for slab in slab_bounds(basins.shape):
        rows = slice(slab.start, slab.stop + 1)  # with the first layer of the next slab
        meeting = _find_meetings(basins[rows], height[rows], slab.stop - slab.start, size, scale)
        codes.append(_highest_of_pairs(meeting, scale))
    pair, level = np.divmod(_highest_of_pairs(np.concatenate(codes), scale), scale)
    return pair // size, pair % size, level


def _find_meetings(basins: Keys, height: Keys, layers: int, size: int, scale: int) -> Indices:
    """Pair of basins and level, in one number, wherever an element of the first ``layers`` meets another basin."""
    codes = []
    for offset in product((-1, 0, 1), repeat=basins.ndim):
        if offset <= (0,) * basins.ndim:  # each pair of neighbours once
            continue
        # Sorting one number is many times faster than sorting by two columns.
        shape = (min(layers + offset[0], len(basins)), *basins.shape[1:])
        here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True))
        there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True))
        a, b = basins[here], basins[there]
        meet = (a != b) & (a >= 0) & (b >= 0)
        low, high = np.minimum(a[meet], b[meet]).astype(np.int64), np.maximum(a[meet], b[meet])
        codes.append((low * size + high) * scale + np.minimum(height[here][meet], height[there][meet]))
    return np.concatenate(codes)


def _highest_of_pairs(codes: Indices, scale: int) -> Indices:
    """Of the codes of each pair the one with the highest level, ascending."""
    codes = np.sort(codes)
    pair = codes // scale
    return codes[np.append(pair[1:] != pair[:-1], True)[: pair.size]]
