# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a step of pre-training draws, wherever it comes from: slices, and a second image of each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Slices of a step.

    Args:
        images: ``(B, 1, S, S)`` in [0, 1], background exactly 0, each slice at the upper left.
        others: ``(B, 1, S, S)`` the same anatomy once more: the same image, or one of another contrast.
        frames: ``(B, 2)`` height and width of each slice within the square.
        clean: ``(B,)`` boolean, whether the slice is taken to show no lesion.
        groups: ``(B,)`` int64, slices of one group look as if of one scanner and sequence; a lesion has to be told
            from the healthy tissue of its own group.
        crossed: ``(B,)`` boolean, whether ``others`` has another contrast than ``images``.
    """

    images: Tensor
    others: Tensor
    frames: Tensor
    clean: Tensor
    groups: Tensor
    crossed: Tensor
