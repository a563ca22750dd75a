# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The tensors that travel between the stages, with their shapes checked once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["EncodedSlices", "PatchEmbeddings"]


@dataclass(frozen=True)
class PatchEmbeddings:
    """Patch and CLS embeddings of a batch of slices.

    Args:
        patches: ``(B, S, h, w, D)``, patch embeddings of S transformer stages, not normalised.
        cls: ``(B, S, D)``, the CLS embedding of each stage.
    """

    patches: Tensor
    cls: Tensor

    def __post_init__(self) -> None:
        if self.patches.ndim != 5:
            raise ValueError(f"`patches` must have shape (B, S, h, w, D), got {tuple(self.patches.shape)}.")
        expected = (*self.patches.shape[:2], self.patches.shape[-1])
        if tuple(self.cls.shape) != expected:
            raise ValueError(f"`cls` must have shape (B, S, D) = {expected}, got {tuple(self.cls.shape)}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patch grid."""
        return self.patches.shape[2], self.patches.shape[3]


@dataclass(frozen=True)
class EncodedSlices:
    """What the embedder sees of a batch of slices.

    Args:
        embeddings: patch and CLS embeddings on the grid (h, w).
        location: ``(B, h, w, 3)``, relative row, column and slice position of each patch's centre, in [0, 1].
        foreground: ``(B, h, w)``, share of each patch's pixels that are foreground.
    """

    embeddings: PatchEmbeddings
    location: Tensor
    foreground: Tensor

    def rows(self) -> dict[str, Tensor]:
        """What an embedding store keeps of each patch: ``patches (B, h, w, S, D)`` and ``location (B, h, w, 3)``."""
        return {"patches": self.embeddings.patches.movedim(1, 3), "location": self.location}
