# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Intensity beside the embedding: what a patch of eight pixels cannot resolve, a pixel's own brightness may tell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_dpmm_ad.errors import NotFittedError, unknown_option
from monai_dpmm_ad.ops.graphs import is_exporting

__all__ = ["TAILS", "IntensityTail", "compute_surprisal", "make_surprisal_table", "smooth_foreground"]


TAILS = ("bright", "dark", "both")

_BINS = 1024

_LEAST_SHARE = 1e-3  # of the healthy pixels: beyond it the tail is extrapolated

_LEAST_PIXELS = 20


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
        if not is_exporting() and not self.fitted:
            raise NotFittedError("The intensity tail has seen no healthy pixels. Call `fit` first, or load a bundle.")
        return maps / self.score_scale + self.weight * compute_surprisal(self.smooth(images), self.table)


def make_surprisal_table(intensities: Tensor, tail: str) -> Tensor:
    """Tabulate how surprising each intensity is among healthy pixels.

    ``bright``: ``−log P(healthy > x)``; ``dark``: ``−log P(healthy < x)``; ``both``: the larger of the two. Beyond the
    intensity that one in a thousand healthy pixels exceeds (20 pixels at least) the tail goes on exponentially, with
    the mean excess of the pixels beyond it, so that no intensity is ever infinitely surprising.

    Args:
        intensities: ``(n,)`` of healthy pixels, in [0, 1].
        tail: ``"bright"``, ``"dark"`` or ``"both"``.

    Returns:
        ``(1025,)`` nats at intensities 0, 1/1024, …, 1; not negative.

    Raises:
        ValueError: an unknown tail, or no pixels.

    Reference:
        The exponential tail is the generalised Pareto with shape 0 (Pickands 1975); the rest is ours.
    """
    if tail not in TAILS:
        raise unknown_option("intensity_tail", tail, TAILS)
    if intensities.numel() == 0:
        raise ValueError("`intensities` must hold at least one healthy pixel, got none.")
    values = intensities.double().flatten().sort().values
    grid = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)
    tables = []
    if tail != "dark":
        tables.append(_upper_surprisal(values, grid))
    if tail != "bright":
        tables.append(_upper_surprisal((1 - values).flip(0), grid).flip(0))
    return torch.stack(tables).amax(0).float()


def _upper_surprisal(values: Tensor, grid: Tensor) -> Tensor:
    """``−log P(value > x)`` on a grid, for sorted values."""
    count = len(values)
    kept = min(max(_LEAST_PIXELS, round(_LEAST_SHARE * count)), count)
    edge = values[count - kept]
    excess = (values[count - kept :] - edge).mean().clamp_min(1 / _BINS)
    above = (count - torch.searchsorted(values, grid, right=True)).clamp_min(1)
    inside = -torch.log(above / count)
    beyond = -torch.log((values > edge).sum().clamp_min(1) / count) + (grid - edge) / excess
    return torch.where(grid > edge, beyond, inside)


def compute_surprisal(intensities: Tensor, table: Tensor) -> Tensor:
    """Look intensities up in a table of `make_surprisal_table`, linearly between its entries.

    Args:
        intensities: any shape, in [0, 1]; others count as the nearer end.
        table: ``(bins + 1,)``, nats.

    Returns:
        Same shape, nats.
    """
    place = intensities.clamp(0, 1) * (table.shape[0] - 1)
    lower = place.floor().clamp_max(table.shape[0] - 2)
    index = lower.long()
    return table[index] + (place - lower) * (table[index + 1] - table[index])


def smooth_foreground(images: Tensor, sigma: float) -> Tensor:
    """Smooth with a Gaussian inside the foreground; the background has no part in it and stays 0.

    Args:
        images: ``(B, 1, H, W)``, background exactly 0.
        sigma: of the Gaussian in pixels; 0 leaves the images as they are.

    Returns:
        Same shape.
    """
    if sigma == 0:
        return images
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma) ** 2).to(images.dtype)
    line = line / line.sum()
    inside = (images > 0).to(images.dtype)
    both = torch.cat([images, inside])
    both = F.conv2d(both, line.view(1, 1, -1, 1), padding=(reach, 0))
    both = F.conv2d(both, line.view(1, 1, 1, -1), padding=(0, reach))
    count = images.shape[0]  # not `chunk`, which would fix the batch size of a graph
    total, weight = both[:count], both[count:]
    return inside * total / torch.where(inside > 0, weight, 1)
