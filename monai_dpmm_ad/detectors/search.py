# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Nearest neighbours among many vectors: FAISS or PyTorch, with the same result."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.ops.distances import split_rows, squared_distances
from monai_dpmm_ad.ops.graphs import is_exporting
from monai_dpmm_ad.utils.extras import import_extra

__all__ = ["INDEXES", "LazySearch", "NearestNeighbours"]

INDEXES = ("flat", "ivf")
QUERY_CHUNK = 1024
VECTOR_CHUNK = 16_384


class NearestNeighbours:
    """Find the nearest of M vectors in the Euclidean sense.

    PyTorch searches in chunks: the memory beyond the vectors is 1024 × 16 384 distances. FAISS searches on the CPU
    only. On one thread PyTorch was faster than FAISS's flat index (docs/detectors.md), so by default FAISS does "ivf"
    alone. ``ivf`` looks only into the nearest cells of a k-means partition and may miss a neighbour; PyTorch's search
    is always exact, and so is a graph, which cannot take FAISS along.

    Args:
        vectors: (M, D), M ≥ 1, any floating dtype.
        index: "flat", exact, or "ivf", approximate.
        num_lists: cells of "ivf"; None takes 4√M.
        num_probes: cells that are looked into; None takes a tenth of them.
        use_faiss: None uses it for "ivf" where it is installed.

    Raises:
        ValueError: no vectors, or an unknown index.
        ImportError: FAISS was demanded and is not installed.

    Example:
        >>> search = NearestNeighbours(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        >>> distances, indices = search(torch.tensor([[3.0, 0.0]]), k=2)
        >>> distances.tolist(), indices.tolist()
        ([[9.0, 16.0]], [[0, 1]])
    """

    def __init__(
        self,
        vectors: Tensor,
        index: str = "flat",
        num_lists: int | None = None,
        num_probes: int | None = None,
        use_faiss: bool | None = None,
    ) -> None:
        if index not in INDEXES:
            raise unknown_option("index", index, INDEXES)
        if vectors.ndim != 2 or vectors.shape[0] == 0:
            raise ValueError(f"`vectors` must have shape (M, D) with M ≥ 1, got {tuple(vectors.shape)}.")
        if use_faiss is None:
            use_faiss = index == "ivf" and vectors.device.type == "cpu" and find_spec("faiss") is not None
        self.vectors = vectors
        self._faiss = _build(vectors, index, num_lists, num_probes) if use_faiss else None

    def __call__(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Search.

        Args:
            x: (N, D).
            k: how many neighbours, at most M.

        Returns:
            squared distances (N, k), ascending, and indices (N, k).

        Raises:
            ValueError: another dimension, or k outside [1, M].
        """
        if not 1 <= k <= self.vectors.shape[0]:
            raise ValueError(f"`k` must lie between 1 and the number of vectors {self.vectors.shape[0]}, got {k}.")
        if x.ndim != 2 or x.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"`x` must have shape (N, {self.vectors.shape[1]}) as the vectors, got {tuple(x.shape)}.")
        x = x.float()
        if self._faiss is None or is_exporting():  # a graph cannot see into FAISS
            return self._search_torch(x, k)
        distances, indices = self._faiss.search(x.contiguous().numpy(), k)
        found = torch.from_numpy(distances).clamp_(min=0), torch.from_numpy(indices)
        missing = (found[1] < 0).any(1)  # the probed cells held fewer than k
        if missing.any():
            found[0][missing], found[1][missing] = self._search_torch(x[missing], k)
        return found

    def _search_torch(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        parts = [self._search_chunk(rows, k) for rows in split_rows(x, QUERY_CHUNK)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _search_chunk(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        best = x.new_empty(x.shape[0], 0), x.new_empty(x.shape[0], 0, dtype=torch.long)
        start = 0
        for part in self.vectors.split(VECTOR_CHUNK):
            found = squared_distances(x, part.float()).topk(min(k, part.shape[0]), largest=False)
            distances = torch.cat([best[0], found.values], dim=1)
            indices = torch.cat([best[1], found.indices + start], dim=1)
            kept = distances.topk(min(k, distances.shape[1]), largest=False)
            best = kept.values, indices.gather(1, kept.indices)
            start += part.shape[0]
        return best


class LazySearch:
    """A search that is built when it is first needed, and anew once the vectors are other ones.

    A detector keeps its vectors in a buffer. Fitting, loading a state dict and moving to another device each put
    another tensor there, by which the change is seen.

    Args:
        index: as for :class:`NearestNeighbours`, and so are the others.
        num_lists: as there.
        num_probes: as there.
        use_faiss: as there.

    Raises:
        ValueError: an unknown index.
    """

    def __init__(
        self,
        index: str = "flat",
        num_lists: int | None = None,
        num_probes: int | None = None,
        use_faiss: bool | None = None,
    ) -> None:
        if index not in INDEXES:
            raise unknown_option("index", index, INDEXES)
        self._options = (index, num_lists, num_probes, use_faiss)
        self._built: NearestNeighbours | None = None

    def among(self, vectors: Tensor) -> NearestNeighbours:
        """Return the search among vectors (M, D)."""
        if self._built is None or self._built.vectors is not vectors:
            self._built = NearestNeighbours(vectors, *self._options)
        return self._built


def _build(vectors: Tensor, index: str, num_lists: int | None, num_probes: int | None) -> Any:
    faiss = import_extra("faiss", "faiss")
    rows, dim = vectors.shape
    built: Any
    if index == "flat":
        built = faiss.IndexFlatL2(dim)
    else:
        num_lists = min(rows, num_lists or max(1, round(4 * rows**0.5)))
        built = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, num_lists)
        built.cp.min_points_per_centroid = 1  # no warning for few vectors
        built.nprobe = min(num_lists, num_probes or max(1, num_lists // 10))
        built.train(vectors.float().cpu().numpy())
    for part in vectors.split(VECTOR_CHUNK):
        built.add(part.float().cpu().numpy())
    return built
