# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Normal reference slices: a bounded, uniform draw of them, as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from monai_dpmm_ad.embedding.store.rows import make_generator
from monai_dpmm_ad.ops.patches import normalize_embeddings
from monai_dpmm_ad.utils.distributed import gather_rows

__all__ = ["ReferenceCollector", "split_slices"]


def split_slices(rows: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Split a scan's rows into slices: CLS ``(S, D)`` and patches ``(m, S, D)`` of each slice that has patches."""
    numbers = rows["slice_index"].long()
    return [(rows["cls"][number], rows["patches"][numbers == number]) for number in numbers.unique().tolist()]


class ReferenceCollector:
    """Sample slices uniformly from all that pass by, without knowing how many there will be.

    Each slice gets a random key, which depends on its number alone and so not on the process that reads it; those with
    the smallest keys stay. What is kept is in half precision.

    Args:
        max_references: largest number of slices.
        max_patches: largest number of patches of each, drawn at random.
        seed: of the keys and the patches.
    """

    def __init__(self, max_references: int, max_patches: int, seed: int) -> None:
        self.max_references = max_references
        self.max_patches = max_patches
        self.seed = seed
        self._kept: list[tuple[float, Tensor, Tensor]] = []

    def add(self, scan: int, number: int, cls: Tensor, patches: Tensor) -> None:
        """Offer one slice.

        Args:
            scan: its scan's number among all scans.
            number: its own number among the scan's slices.
            cls: ``(D,)``.
            patches: ``(m, S, D)``, m ≥ 1.
        """
        generator = make_generator("reference", self.seed, scan, number)
        key = generator.random()
        order = torch.from_numpy(generator.permutation(len(patches))[: self.max_patches]).sort().values
        chosen = normalize_embeddings(patches[order.to(patches.device)].float())
        self._kept.append((key, normalize_embeddings(cls.float()).half().cpu(), chosen.half().cpu()))
        if len(self._kept) >= 2 * self.max_references:
            self._kept = self._smallest()

    def _smallest(self) -> list[tuple[float, Tensor, Tensor]]:
        return sorted(self._kept, key=lambda reference: reference[0])[: self.max_references]

    def finish(self, embed_dim: int, num_stages: int) -> tuple[Tensor, Tensor, Tensor]:
        """Join what all processes kept.

        Args:
            embed_dim: D, of the empty tensors where nothing was kept.
            num_stages: S.

        Returns:
            CLS ``(R, D)`` and patches ``(N, S, D)``, float16 unit vectors, and the number of patches of each slice
            ``(R,)``, int64.
        """
        kept = self._smallest()
        keys = torch.tensor([key for key, _, _ in kept], dtype=torch.float64)
        counts = torch.tensor([len(patches) for _, _, patches in kept], dtype=torch.long)
        cls = torch.stack([item[1] for item in kept]) if kept else torch.zeros(0, embed_dim).half()
        patches = torch.cat([torch.zeros(0, num_stages, embed_dim).half(), *(item[2] for item in kept)])
        keys, counts, cls, patches = (gather_rows(part) for part in (keys, counts, cls, patches))
        order = keys.argsort()[: self.max_references]
        parts = patches.split(counts.tolist())
        return cls[order], torch.cat([patches[:0], *(parts[i] for i in order.tolist())]), counts[order]
