# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What another scanner adds to every score of a place: an offset and a spread, learnt from a few healthy scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Lattice, average_points

__all__ = [
    "NUM_CHANNELS",
    "SITE_SHAPE",
    "Shift",
    "SiteCells",
    "SiteField",
    "average_cells",
    "shrink_offset",
    "shrink_spread",
]

Array = NDArray[np.float64]

#: The detector's score and the intensity at two scales.
NUM_CHANNELS = 3
#: Places about 16 mm apart in a brain: a site's own is smooth, a person's own is not.
SITE_SHAPE = (10, 12, 10)
_MOST_VOXELS = 200_000
_LARGEST = 8.0  # deviates are clipped to it
#: Variance between healthy people of one site, of a deviate's mean over a place and over the whole scan, and the scans
#: that it is worth before any is seen.
_OF_PLACES, _OF_SCANS, _PRIOR = 0.25, 0.1, 2.0
#: Scans' worth of the spread being what it was.
_SAME_SPREAD = 5.0
_SMALLEST, _LARGEST_SPREAD = 0.5, 9.0  # variances


class SiteCells(NamedTuple):
    """Mean and mean square of a scan's deviates ``(C, X, Y, Z)`` in cells, and 1 where there are any ``(X, Y, Z)``."""

    mean: Array
    square: Array
    seen: Array


def average_cells(
    deviates: Sequence[Tensor], image: NDArray[np.float32], affine: Array, frame: Frame, lattice: Lattice
) -> SiteCells:
    """Average a scan's deviates over places.

    Args:
        deviates: channels, each ``(X, Y, Z)``.
        image: same shape, background 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm).
        frame: of the scan.
        lattice: of `SITE_SHAPE`.
    """
    index = np.argwhere(image > 0)
    index = index[:: max(1, len(index) // _MOST_VOXELS)]
    points = frame.locate(index @ affine[:3, :3].T + affine[:3, 3])
    means, squares, seen = [], [], np.zeros(lattice.shape, np.float32)
    for channel in deviates:
        values = np.clip(channel.numpy()[tuple(index.T)], -_LARGEST, _LARGEST)
        mean, seen = average_points(points, values, lattice)
        means.append(mean)
        squares.append(average_points(points, values**2, lattice)[0])
    return SiteCells(np.stack(means).astype(float), np.stack(squares).astype(float), seen.astype(float))


class Shift(NamedTuple):
    """What the standardised channels of a site's scans differ by: offset and spread, each ``(3, X, Y, Z)``."""

    offset: Tensor
    spread: Tensor

    def adjust(self, parts: Sequence[Tensor], sample: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What is expected of a scan of the site.

        Args:
            parts: mean and spread of the detector's score ``(1, X, Y, Z)``, and standardised intensities, if any.
            sample: brings a field ``(3, …)`` to the same points ``(3, X, Y, Z)``.
        """
        offset, spread = sample(self.offset), sample(self.spread)
        mean, width, *intensities = parts
        judged = [(part - offset[1:]) / spread[1:] for part in intensities]
        return [mean + offset[:1] * width, width * spread[:1], *judged]


class SiteField(nn.Module):
    """Offset and spread of standardised channels at a site, as fields of low resolution.

    With z a deviate against the fitted cohort, a scan of the site is judged by (z − o(r)) / τ(r). o has a part that all
    places share and one of each place. Both are held back by how much healthy people of one site differ (empirical
    Bayes): with g the mean over n scans, v the variance between people and A = max(g² − v / n, 0), a share
    A / (A + v / n) of g is believed. So a scan that differs no more than people do moves nothing, and five that agree
    move nearly all. τ² is the mean square of z − o with five pseudo-scans in which it is 1.

    Reference:
        Efron and Morris 1973, "Stein's estimation rule and its competitors".
    """

    offset: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(NUM_CHANNELS, *SITE_SHAPE))
        self.register_buffer("spread", torch.ones(NUM_CHANNELS, *SITE_SHAPE))

    def learn(self, scans: Sequence[SiteCells]) -> None:
        """Learn the fields from healthy scans of the site; from none, there is nothing of its own."""
        self.offset.zero_()
        self.spread.fill_(1)
        if scans:
            seen = np.stack([scan.seen for scan in scans])
            for channel in range(len(scans[0].mean)):
                means = np.stack([scan.mean[channel] for scan in scans])
                squares = np.stack([scan.square[channel] for scan in scans])
                offset = shrink_offset(means, seen)
                self.offset[channel] = torch.from_numpy(offset)
                spread = shrink_spread(squares - 2 * offset * means + offset**2, seen)
                self.spread[channel] = torch.from_numpy(spread)

    @property
    def shift(self) -> Shift:
        """The fields."""
        return Shift(self.offset, self.spread)


def shrink_offset(means: Array, seen: Array) -> Array:
    """Offset ``(X, Y, Z)`` from means and presence ``(n, X, Y, Z)``."""
    count, total = len(means), seen.sum(0)
    mean = (means * seen).sum(0) / np.maximum(total, 1)
    shares = seen.reshape(count, -1) / np.maximum(seen.reshape(count, -1).sum(1, keepdims=True), 1)
    of_scans = (means.reshape(count, -1) * shares).sum(1)
    whole = float(of_scans.mean())
    spare = float(np.maximum(total - 1, 0).sum())
    between = float((seen * (means - mean) ** 2).sum()) / max(spare, 1)
    of_places = (_PRIOR * _OF_PLACES + (count - 1) * between) / (_PRIOR + count - 1)
    of_people = (_PRIOR * _OF_SCANS + float(((of_scans - whole) ** 2).sum())) / (_PRIOR + count - 1)
    local, known = _smooth(mean - whole, total)
    noise = of_places / np.maximum(total, 1)
    signal = max(float((total * (local**2 - noise)).sum()) / max(float(total.sum()), 1), 0.0)
    share = np.where(total > 0, signal / (signal + noise), 0) if signal else 0.0
    return np.asarray(whole * _believe(whole**2, of_people / count) + share * local * known)


def _believe(square: float, noise: float) -> float:
    signal = max(square - noise, 0.0)
    return signal / (signal + noise)


def shrink_spread(squares: Array, seen: Array, smallest: float = _SMALLEST, largest: float = _LARGEST_SPREAD) -> Array:
    """Spread ``(X, Y, Z)`` from mean squares and presence ``(n, X, Y, Z)``, between two variances."""
    total = seen.sum(0)
    whole = float((squares * seen).sum()) / max(float(total.sum()), 1)
    whole = (len(squares) * whole + _SAME_SPREAD) / (len(squares) + _SAME_SPREAD)
    local, known = _smooth((squares * seen).sum(0) / np.maximum(total, 1), total)
    count = total * known
    variance = (count * local + _SAME_SPREAD * whole) / (count + _SAME_SPREAD)
    return np.sqrt(np.clip(variance, smallest, largest))


def _smooth(values: Array, weight: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Values over places nearby, by weight, and where there are any."""
    parts = [ndimage.gaussian_filter(part, 1.0, mode="constant", truncate=2.0) for part in (values * weight, weight)]
    known = parts[1] > 1e-3
    return np.divide(parts[0], parts[1], out=np.zeros_like(values), where=known), known
