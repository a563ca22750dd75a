# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Rows of an embedding store: which are kept, which are drawn, and what is checked of them."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_stored", "check_rows", "choose_patches", "equal_quotas", "make_generator"]


def make_generator(*key: object) -> np.random.Generator:
    """Make a generator whose stream depends on the key alone: texts and integers of any sign."""
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def choose_patches(slice_index: Tensor, fraction: float, seed: int, source_name: str) -> Tensor:
    """Choose a random share of each slice's patches, by a generator seeded from the seed and the source's name.

    Args:
        slice_index: ``(n,)``.
        fraction: share in (0, 1]; at least one patch of each slice.
        seed: any integer.
        source_name: of the source.

    Returns:
        Indices of the chosen patches, ascending.
    """
    if fraction == 1:
        return torch.arange(len(slice_index))
    draw = make_generator(seed, source_name).random(len(slice_index))
    slices = slice_index.cpu().numpy()
    order = np.lexsort((draw, slices))  # by slice, then by draw
    _, start, count = np.unique(slices[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(start, count)
    kept = order[rank < np.repeat(np.maximum(1, np.round(fraction * count)), count)]
    return torch.from_numpy(np.sort(kept))


def check_rows(name: str, patches: Tensor, location: Tensor, slice_index: Tensor, cls: Tensor | None) -> None:
    """Check that what is written of one source belongs together, see :meth:`StoreWriter.write`."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"`source_name` must be a text of at least one character, got {name!r}.")
    if patches.ndim != 3 or 0 in patches.shape[1:]:
        raise ValueError(f"`patches` must have shape (n, S, D), got {tuple(patches.shape)} for '{name}'.")
    rows = len(patches)
    if tuple(location.shape) != (rows, 3) or not bool(((location >= 0) & (location <= 1)).all()):
        raise ValueError(
            f"`location` must have shape ({rows}, 3) and lie in [0, 1], got {tuple(location.shape)} for '{name}'."
        )
    if tuple(slice_index.shape) != (rows,) or slice_index.is_floating_point() or bool((slice_index < 0).any()):
        raise ValueError(f"`slice_index` must be {rows} integers from 0, got {tuple(slice_index.shape)} for '{name}'.")
    if cls is not None and cls.shape[1:] != patches.shape[1:]:
        raise ValueError(f"`cls` must have shape (s, S, D) like `patches`, got {tuple(cls.shape)} for '{name}'.")
    if cls is not None and rows and int(slice_index.max()) >= len(cls):
        raise ValueError(
            f"`slice_index` must be an index into the {len(cls)} rows of `cls`, got {int(slice_index.max())}."
        )


def as_stored(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert embeddings to the type of the store, on the CPU; refuse what is not finite in it."""
    stored = values.detach().to("cpu", dtype)
    if not bool(torch.isfinite(stored).all()):
        raise ValueError(f"`patches` and `cls` must be finite as {dtype}, got NaN or infinity for '{name}'.")
    return stored


def equal_quotas(sizes: np.ndarray, total: int) -> np.ndarray:
    """Share ``total`` draws as equally as the sizes allow.

    Args:
        sizes: ``(n,)`` integers, what each can give.
        total: number of draws; all is given where the sizes add up to less.

    Returns:
        ``(n,)`` integers, each at most its size.
    """
    quotas = np.zeros_like(sizes)
    order = np.argsort(sizes, kind="stable")
    left = min(total, int(sizes.sum()))
    for position, source in enumerate(order):
        quotas[source] = min(sizes[source], left // (len(order) - position))
        left -= int(quotas[source])
    return quotas
