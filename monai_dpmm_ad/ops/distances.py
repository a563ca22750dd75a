# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Distances from many points to a few centres, in chunks of rows: never an N×K×D tensor, never more than chunk×K."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.ops.graphs import is_exporting

__all__ = [
    "nearest_centres",
    "nearest_cosine_distance",
    "nearest_euclidean_distance",
    "split_rows",
    "squared_distances",
]

CHUNK_SIZE = 8192  # rows: a float32 chunk against 500 centres is 16 MB


def split_rows(x: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """Split x (N, …) into chunks of rows, so that what is computed of them stays small.

    A graph gets x whole: its number of chunks would be fixed, and with it N.
    """
    if is_exporting():
        return (x,)
    return x.split(chunk_size)


def check_points(x: Tensor, centres: Tensor) -> None:
    """Check that ``x`` (N, D) and ``centres`` (K, D) belong together.

    Raises:
        ValueError: if either is not a matrix, there is no centre, or their dimensions differ.
    """
    if centres.ndim != 2 or centres.shape[0] == 0:
        raise ValueError(f"`centres` must have shape (K, D) with K ≥ 1, got {tuple(centres.shape)}.")
    if x.ndim != 2 or x.shape[1] != centres.shape[1]:
        raise ValueError(f"`x` must have shape (N, {centres.shape[1]}) as the centres, got {tuple(x.shape)}.")


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Compute ‖x_n − c_k‖² as one matrix product, clamped at zero.

    Args:
        x: (N, D). Centre the data when its mean is far from zero compared with its spread: float32 cancels.
        centres: (K, D).

    Returns:
        (N, K), squared distances.
    """
    norms = torch.addmm(centres.square().sum(1), x, centres.T, alpha=-2.0)
    return norms.add_(x.square().sum(1, keepdim=True)).clamp_(min=0.0)


def nearest_centres(x: Tensor, centres: Tensor, chunk_size: int = CHUNK_SIZE) -> tuple[Tensor, Tensor]:
    """Find each point's nearest centre in the Euclidean sense.

    Args:
        x: (N, D).
        centres: (K, D).
        chunk_size: rows at a time.

    Returns:
        squared distances (N,) and indices (N,) of the nearest centres.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    check_points(x, centres)
    found = [squared_distances(rows, centres).min(dim=1) for rows in split_rows(x, chunk_size)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def nearest_euclidean_distance(x: Tensor, centres: Tensor, chunk_size: int = CHUNK_SIZE) -> Tensor:
    """Compute the Euclidean distance from each point to its nearest centre.

    Args:
        x: (N, D).
        centres: (K, D).
        chunk_size: rows at a time.

    Returns:
        (N,), distances in the unit of ``x``.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    check_points(x, centres)
    origin = centres.mean(0)
    return nearest_centres(x - origin, centres - origin, chunk_size)[0].sqrt()


def nearest_cosine_distance(x: Tensor, centres: Tensor, chunk_size: int = CHUNK_SIZE) -> Tensor:
    """Compute 1 − max_k cos(x_n, c_k).

    Args:
        x: (N, D), of any length: rows are normalised here. A zero row has distance 1 to everything.
        centres: (K, D).
        chunk_size: rows at a time.

    Returns:
        (N,), in [0, 2].

    Raises:
        ValueError: if the shapes do not belong together.
    """
    check_points(x, centres)
    directions = F.normalize(centres, dim=1).T
    best = [(F.normalize(rows, dim=1) @ directions).amax(1) for rows in split_rows(x, chunk_size)]
    return (1.0 - torch.cat(best)).clamp_(min=0.0)
