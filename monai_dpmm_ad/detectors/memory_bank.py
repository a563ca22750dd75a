# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A memory bank: keep normal patch embeddings, or a coreset of them, and score by the distance to the nearest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from monai_dpmm_ad.detectors.base import Detector
from monai_dpmm_ad.detectors.coreset import iterate_k_centres, project_randomly
from monai_dpmm_ad.detectors.search import LazySearch
from monai_dpmm_ad.embedding.types import EncodedSlices
from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.ops.graphs import is_exporting
from monai_dpmm_ad.utils.distributed import gather_batch
from monai_dpmm_ad.utils.progress import track

__all__ = ["MemoryBankDetector"]


class MemoryBankDetector(Detector):
    """Score patches by ½‖y − m‖² to the nearest remembered embedding m, which for unit vectors is 1 − cos(y, m).

    One pass over the store fills a pool of at most ``max_rows`` embeddings, a uniform draw where the store has more.
    The bank is the pool, or its k-centre-greedy coreset. It is saved in half precision: M·F·2 bytes.

    Args:
        embed_dim: D, size of one stage's patch embedding.
        num_stages: S, number of stages.
        location_weight: see :class:`~monai_dpmm_ad.detectors.Detector`.
        fraction: share of the pool that the coreset keeps, in (0, 1]; 1 keeps all.
        budget: largest number of embeddings in the bank; None sets no limit beyond the others.
        max_rows: largest pool; the fit's memory is about 6·F bytes for each of them.
        projection: random dimensions in which the greedy step measures distances; None takes the embedding itself.
        neighbours: k; the score is the mean over the k nearest.
        index: "flat", exact, or "ivf", see :class:`~monai_dpmm_ad.detectors.search.NearestNeighbours`.
        num_lists: as there.
        num_probes: as there.
        use_faiss: as there.
        seed: of the draw and of the projection.

    Reference:
        Roth et al. 2022 (PatchCore); Damm et al., WACV 2025, arXiv 2405.14529 (AnomalyDINO).
    """

    bank: Tensor
    max_epochs = 1
    variable_buffers = ("bank",)

    def __init__(
        self,
        embed_dim: int,
        num_stages: int = 1,
        location_weight: float = 0.0,
        fraction: float = 1.0,
        budget: int | None = None,
        max_rows: int = 200_000,
        projection: int | None = 128,
        neighbours: int = 1,
        index: str = "flat",
        num_lists: int | None = None,
        num_probes: int | None = None,
        use_faiss: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(embed_dim, num_stages, location_weight)
        if not 0 < fraction <= 1:
            raise ValueError(f"`fraction` must lie in (0, 1], got {fraction}.")
        counts = {"budget": budget, "max_rows": max_rows, "projection": projection, "neighbours": neighbours}
        for name, value in {**counts, "num_lists": num_lists, "num_probes": num_probes}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.fraction = fraction
        self.budget = budget
        self.max_rows = max_rows
        self.projection = projection
        self.neighbours = neighbours
        self.seed = seed
        self._search = LazySearch(index, num_lists, num_probes, use_faiss)
        self._pool: list[Tensor] = []
        self._seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        self.register_buffer("bank", torch.zeros(0, self.feature_dim, dtype=torch.float16))

    @property
    def fitted(self) -> bool:
        """Whether the bank holds anything."""
        return len(self.bank) > 0

    def fit_batch(self, rows: Mapping[str, Tensor], num_data: int) -> Tensor:
        """Put a batch, or its share where the store exceeds ``max_rows``, into the pool."""
        if not self._pool:  # a new pass; a bank from a checkpoint is kept and added to
            self._pool, self._seen = [self.bank.cpu()], 0
            self._generator.manual_seed(self.seed)
        features = gather_batch(self.features(rows))  # so that the bank does not depend on the number of processes
        share = min(1.0, self.max_rows / num_data)
        count = int((self._seen + len(features)) * share) - int(self._seen * share)
        self._seen += len(features)
        if count < len(features):
            order = torch.randperm(len(features), generator=self._generator)[:count].sort().values
            features = features[order.to(features.device)]
        self._pool.append(features.half().cpu())
        return torch.zeros((), device=features.device)

    def finish_epoch(self, draw_sample: Callable[[], Mapping[str, Tensor]]) -> None:
        """Turn the pool into the bank.

        Raises:
            ValueError: fewer embeddings than ``neighbours``.
        """
        pool = torch.cat(self._pool)
        self._pool = []
        count = min(len(pool), self.budget or len(pool), max(1, round(self.fraction * len(pool))))
        if count < self.neighbours:
            raise ValueError(
                f"`neighbours` must not exceed the {count} embeddings of the bank, got {self.neighbours}. "
                "Ask for fewer neighbours or give more normal scans."
            )
        if count < len(pool):
            pool = pool[self._choose(pool.to(self.bank.device), count)]
        self.bank = pool.to(self.bank.device)

    def _choose(self, pool: Tensor, count: int) -> Tensor:
        """Indices (≤ count,) of the pool's coreset, ascending."""
        generator = torch.Generator().manual_seed(self.seed)
        points = project_randomly(pool.float(), self.projection or pool.shape[1], generator)
        chosen = torch.tensor(list(track(iterate_k_centres(points, count), total=count, description="Coreset")))
        return chosen.sort().values

    def score(self, features: Tensor) -> Tensor:
        """Score features ``(n, F)``: ``(n,)``, half the mean squared distance to the nearest of the bank."""
        if not self.fitted:
            raise NotFittedError("The memory bank is empty. Fit it, or load a state dict.")
        return self._search.among(self.bank)(features, self.neighbours)[0].mean(1) / 2

    def score_slices(self, encoded: EncodedSlices, valid: Tensor) -> Tensor:
        """Score the valid patches only: the search is what costs here."""
        if is_exporting():  # which cannot choose rows
            return super().score_slices(encoded, valid)
        features = self.features(encoded.rows())
        scores = features.new_zeros(valid.shape)
        scores[valid] = self.score(features[valid])
        return scores
