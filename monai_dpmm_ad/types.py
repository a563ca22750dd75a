# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The tensors that travel between the stages, with their shapes checked once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["PatchEmbeddings"]


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
