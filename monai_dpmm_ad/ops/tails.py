# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How unusual an intensity is by itself: surprisal of healthy tails, and the smoothing before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option

__all__ = ["TAILS", "compute_surprisal", "make_surprisal_table", "smooth_foreground"]

TAILS = ("bright", "dark", "both")
_BINS = 1024
_LEAST_SHARE = 1e-3  # of the healthy pixels: beyond it the tail is extrapolated
_LEAST_PIXELS = 20


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
