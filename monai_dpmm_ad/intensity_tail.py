# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Intensity beside the embedding: what a patch of eight pixels cannot resolve, a pixel's own brightness may tell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_dpmm_ad.errors import NotFittedError, unknown_option
from monai_dpmm_ad.ops.graphs import is_graph
from monai_dpmm_ad.ops.tails import TAILS, compute_surprisal, make_surprisal_table, smooth_foreground

__all__ = ["IntensityTail"]


class IntensityTail(nn.Module):
    """Add to an anomaly map how far a pixel lies in the tail of healthy intensities.

    ``s / σ + w · (−log P(a healthy pixel is brighter))``, where σ is the standard deviation of the map on healthy
    pixels: both terms are then in units of about a nat, and their sum is Fisher's combination of two tail
    probabilities. Choose ``bright`` where disease is known to be bright, as in FLAIR; where it is not known, leave the
    term out, since it turns every bright vessel into an anomaly.

    Args:
        tail: ``"bright"``, ``"dark"`` or ``"both"``.
        weight: w, at least 0.
        sigma: of the Gaussian that averages intensities before they are looked up, in pixels of the slice.

    Reference:
        Ours; that intensity alone is hard to beat on FLAIR: Meissen, Kaissis and Rueckert 2021. Fisher 1932, section
        21.1.
    """

    table: Tensor
    score_scale: Tensor

    def __init__(self, tail: str, weight: float = 1.0, sigma: float = 0.7) -> None:
        super().__init__()
        if tail not in TAILS:
            raise unknown_option("intensity_tail", tail, ("none", *TAILS))
        if not weight >= 0:
            raise ValueError(f"`intensity_weight` must be at least 0, got {weight}.")
        if not sigma >= 0:
            raise ValueError(f"`sigma` must be at least 0, got {sigma}.")
        self.tail = tail
        self.weight = float(weight)
        self.sigma = float(sigma)
        self.register_buffer("table", torch.zeros(1025))
        self.register_buffer("score_scale", torch.zeros(()))

    @property
    def fitted(self) -> bool:
        """Whether healthy pixels have been seen."""
        return bool(self.score_scale > 0)

    def smooth(self, images: Tensor) -> Tensor:
        """Average the intensities of ``(B, 1, H, W)`` inside the foreground, as they are looked up."""
        return smooth_foreground(images, self.sigma)

    def fit(self, scores: Tensor, intensities: Tensor) -> None:
        """Learn what is usual from healthy pixels.

        Args:
            scores: ``(n,)`` of the map without this term.
            intensities: ``(n,)`` of the smoothed image at the same pixels, in [0, 1].

        Raises:
            ValueError: no pixels, or numbers of them that differ.
        """
        if scores.shape != intensities.shape:
            raise ValueError(
                f"`scores` and `intensities` must have the same shape, got {tuple(scores.shape)} and "
                f"{tuple(intensities.shape)}."
            )
        self.table.copy_(make_surprisal_table(intensities.cpu(), self.tail))
        self.score_scale.copy_(scores.double().std(correction=0).clamp_min(1e-6))

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        """Add the term.

        Args:
            maps: ``(B, 1, H, W)``, not negative.
            images: ``(B, 1, H, W)`` in [0, 1], background exactly 0.

        Raises:
            NotFittedError: before `fit`.
        """
        if not is_graph() and not self.fitted:
            raise NotFittedError("The intensity tail has seen no healthy pixels. Call `fit` first, or load a bundle.")
        return maps / self.score_scale + self.weight * compute_surprisal(self.smooth(images), self.table)
