# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""k-centre-greedy coresets: few points such that every point has one of them nearby."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from monai_dpmm_ad.ops.distances import squared_distances

__all__ = ["iterate_k_centres", "project_randomly"]


def iterate_k_centres(x: Tensor, count: int, candidates: int = 16, chunk_size: int = 16_384) -> Iterator[int]:
    """Choose points one by one, each the farthest from those before; the first is the nearest to the mean.

    The choice is exactly that of the plain greedy algorithm. Distances are computed for the few farthest points at a
    time, so that the points are read once for several steps; the memory in use is N × ``candidates``, never N × M.

    Args:
        x: (N, D), float32 or float64.
        count: M, how many points; choosing stops early when every point coincides with a chosen one.
        candidates: points whose distances are computed together.
        chunk_size: rows at a time.

    Yields:
        indices into ``x``.

    Raises:
        ValueError: no points, or ``count`` outside [1, N].

    Reference:
        Gonzalez 1985: at most twice the optimal radius. The use for memory banks: Roth et al. 2022, algorithm 1. The
        batches of candidates are ours.
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"`x` must have shape (N, D) with N ≥ 1, got {tuple(x.shape)}.")
    if not 1 <= count <= x.shape[0]:
        raise ValueError(f"`count` must lie between 1 and the number of points {x.shape[0]}, got {count}.")
    x = x - x.mean(0)
    first = int(x.square().sum(1).argmin())
    yield first
    nearest = _distances(x, torch.tensor([first], device=x.device), chunk_size)[:, 0]
    chosen = 1
    while chosen < count:
        pool = nearest.topk(min(candidates, x.shape[0])).indices
        columns = _distances(x, pool, chunk_size)
        place = {int(row): column for column, row in enumerate(pool)}
        while chosen < count:
            farthest = int(nearest.argmax())
            if not nearest[farthest] > 0:
                return
            if farthest not in place:
                break
            yield farthest
            chosen += 1
            nearest = torch.minimum(nearest, columns[:, place[farthest]])
            nearest[farthest] = 0  # whatever the rounding: no point is chosen twice


def _distances(x: Tensor, rows: Tensor, chunk_size: int) -> Tensor:
    """Squared distances (N, C) from all points to those with these indices."""
    centres = x[rows]
    return torch.cat([squared_distances(part, centres) for part in x.split(chunk_size)])


def project_randomly(x: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Project onto random directions, which keeps distances up to a few percent.

    Args:
        x: (N, D).
        dim: d; D or more returns ``x`` itself.
        generator: a CPU generator.

    Returns:
        (N, d).

    Reference:
        Johnson and Lindenstrauss 1984.
    """
    if dim >= x.shape[1]:
        return x
    directions = torch.randn(x.shape[1], dim, generator=generator) / dim**0.5
    return x @ directions.to(x)
