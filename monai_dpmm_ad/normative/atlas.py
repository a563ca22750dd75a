# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What healthy scans show at each place: mean and spread, as far as place explains anything."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.utils.distributed import gather_sums

__all__ = ["Atlas"]

Array = NDArray[np.float64]

_UNIT = 1 << 20  # sums are whole multiples of 1 / _UNIT: exact, so that neither order nor processes matter
_LARGEST = 1e4  # what a value is clipped to, so that the sums of a million scans fit
_LEAST_WEIGHT = 1e-6  # scans; where there are fewer nothing is known
_FLOOR = 0.05  # least spread, as a share of the spread over all places
#: Typical values that sums tell apart as they are.
_SMALL, _LARGE = 2.0**-6, 2.0**12


class Atlas(nn.Module):
    """Mean and spread of channels at the places of a lattice, over healthy scans.

    Feed scans with :meth:`update`, in any order and by any number of processes, then call :meth:`finish`. With w, m₁
    and m₂ the sums of weights, values and squares, smoothed by a Gaussian, and n₀ pseudo-scans that know no place,

        m(r) = (m₁ + n₀ v̄) / (w + n₀)        s²(r) = (m₂ + n₀ v̄²) / (w + n₀) − m(r)²

    and of each only a share f is believed, the rest is what all places have in common:

        z = (v − f m(r) − (1 − f) v̄) / √(f_s s²(r) + (1 − f_s) s̄²)

    f is the reliability of the map of means: halves of the scans, by a hash of their names, give two maps, their
    correlation c over places makes f = 2 c / (1 + c) (Spearman and Brown), the slope of a new scan's values on the map;
    f_s likewise. Where place explains nothing f is 0 and the atlas does nothing; with one scan n₀ = 1 halves its mean.

    Args:
        shape: places along x, y and z.
        num_channels: C.
        smoothing: standard deviation of the Gaussian, in places.
        pseudo_scans: n₀.
    """

    weight: Tensor
    mean: Tensor  # minus the mean over all places: half precision keeps what places differ by
    spread: Tensor
    overall: Tensor
    trust: Tensor
    num_scans: Tensor
    unit: Tensor  # of all that is kept

    def __init__(
        self, shape: tuple[int, int, int], num_channels: int = 1, smoothing: float = 1.0, pseudo_scans: float = 1.0
    ) -> None:
        super().__init__()
        self.shape = shape
        self.num_channels = num_channels
        self.smoothing = smoothing
        self.pseudo_scans = pseudo_scans
        size = (num_channels, *shape)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.float16))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float16))
        self.register_buffer("spread", torch.zeros(size, dtype=torch.float16))
        self.register_buffer("overall", torch.zeros(2, num_channels, dtype=torch.float64))
        self.register_buffer("trust", torch.zeros(2, num_channels, dtype=torch.float64))
        self.register_buffer("num_scans", torch.zeros((), dtype=torch.int64))
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        #: of each half, (2, 1 + 2 C, X, Y, Z): sums of weights, values, squares; 49 MB that looking up does not need
        self._sums: NDArray[np.int64] | None = None
        self._counts = np.zeros(2, np.int64)

    @property
    def fitted(self) -> bool:
        """Whether :meth:`finish` has been called, here or before saving."""
        return int(self.num_scans) > 0

    def set_unit(self, values: NDArray[np.float32]) -> None:
        """Have a unit, a power of two, in which values like these ``(n,)`` are neither tiny nor huge: 1 for most."""
        typical = float(np.median(values)) if len(values) else 0.0
        plain = _SMALL <= typical < _LARGE or not 0 < typical < math.inf
        self.unit.fill_(1.0 if plain else 2.0 ** math.floor(math.log2(typical)))

    def update(self, name: str, values: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
        """Add a healthy scan.

        Args:
            name: of the scan; decides on its half.
            values: ``(C, X, Y, Z)``.
            weight: ``(X, Y, Z)``, share of each place that is foreground.

        Raises:
            ValueError: shapes that are not the atlas's.
        """
        if values.shape != tuple(self.mean.shape) or weight.shape != self.shape:
            raise ValueError(
                f"`values` and `weight` must have shapes {tuple(self.mean.shape)} and {self.shape}, got {values.shape} "
                f"and {weight.shape}. Bring the scan to the atlas's lattice."
            )
        if self._sums is None:
            self._sums = np.zeros((2, 1 + 2 * self.num_channels, *self.shape), np.int64)
        half = zlib.crc32(name.encode()) % 2
        sums = self._sums[half]
        sums[0] += _count_units(weight)
        for channel, row in enumerate(values):  # one by one: together they take twice as much memory
            inside = np.where(weight > 0, row, 0).astype(np.float64) / float(self.unit)
            clipped = np.clip(inside, -_LARGEST, _LARGEST)
            sums[1 + channel] += _count_units(clipped * weight)
            sums[1 + self.num_channels + channel] += _count_units(clipped**2 * weight)
        self._counts[half] += 1

    def finish(self) -> None:
        """Turn the scans seen (by all processes of ``torch.distributed``) into buffers, on top of what they hold.

        Raises:
            NotFittedError: no scan was seen.
        """
        seen = gather_sums({} if self._sums is None else {"sums": self._sums, "counts": self._counts})
        self._sums, self._counts = None, np.zeros(2, np.int64)
        if not seen:
            raise NotFittedError("`finish` needs at least one healthy scan. Call `update` first.")
        sums, counts = seen["sums"], seen["counts"]
        if not self.fitted:
            self.trust.fill_(1)  # one half alone cannot tell; the pseudo-scan holds back
        count, known = int(counts.sum()), float(self.num_scans)
        weights = [self._smooth(half[0] / _UNIT) for half in sums]
        before = self.weight.double().numpy() * known
        both = before + (weights[0] + weights[1])
        for channel in range(self.num_channels):  # one by one: together they take twice as much memory
            rows = (1 + channel, 1 + self.num_channels + channel)
            halves = [[self._smooth(half[row] / _UNIT) for row in rows] for half in sums]
            if min(counts) and not self.fitted:
                self.trust[:, channel] = torch.tensor(_measure_trust(weights, halves), dtype=torch.float64)
            total, *raw = (float((sums[:, row].sum(0) / _UNIT).sum()) for row in (0, *rows))
            new = torch.tensor(raw, dtype=torch.float64) / max(total, 1e-12)
            overall = (known * self.overall[:, channel] + count * new) / (known + count)
            self._add(channel, [one + two for one, two in zip(*halves, strict=True)], before, both, overall)
        self.num_scans += count
        self.weight.copy_(torch.from_numpy(both / float(self.num_scans)))

    def _smooth(self, sums: Array) -> Array:
        sigma = [self.smoothing if size > 1 else 0.0 for size in self.shape]
        return ndimage.gaussian_filter(sums, sigma, mode="constant", truncate=3.0)

    def _add(self, channel: int, sums: list[Array], before: Array, both: Array, overall: Tensor) -> None:
        """Add a channel's sums of values and squares, each ``(X, Y, Z)``, to the buffers.

        Args:
            before: scans at each place that the buffers hold.
            both: these and the new ones.
            overall: ``(2,)``, of the channel, with the new scans.
        """
        mean, spread = (buffer[channel].double().numpy() for buffer in (self.mean, self.spread))
        mean = mean + float(self.overall[0, channel])
        safe = np.maximum(both, 1e-9)
        new_mean = (mean * before + sums[0]) / safe
        new_square = ((spread**2 + mean**2) * before + sums[1]) / safe
        self.overall[:, channel] = overall
        seen = both > _LEAST_WEIGHT
        self.mean[channel] = torch.from_numpy(np.where(seen, new_mean - float(overall[0]), 0))
        variance = np.where(seen, np.maximum(new_square - new_mean**2, 0), 0)
        self.spread[channel] = torch.from_numpy(np.sqrt(variance))

    def moments(self) -> tuple[Tensor, Tensor]:
        """What is expected at each place.

        Returns:
            Mean and spread, each ``(C, X, Y, Z)`` float32.

        Raises:
            NotFittedError: before :meth:`finish`.
        """
        if not self.fitted:
            raise NotFittedError("The atlas has seen no scans. Call `update` per healthy scan, then `finish`.")
        weight = self.weight.double() * float(self.num_scans)
        average, average_square = (row[:, None, None, None] for row in self.overall)
        share = weight / (weight + self.pseudo_scans)
        difference = self.mean.double()
        mean = average + share * difference
        f, f_s = (row[:, None, None, None] for row in self.trust)
        variance = (average_square - average**2).clamp_min(1e-12)
        local = share * (self.spread.double() ** 2 + (1 - share) * difference**2) + (1 - share) * variance
        spread = (f_s * local + (1 - f_s) * variance).clamp_min(_FLOOR**2 * variance).sqrt()
        return (self.unit * (f * mean + (1 - f) * average)).float(), (self.unit * spread).float()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.setdefault(f"{prefix}unit", torch.ones_like(self.unit))  # one that was fitted before it had any
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _count_units(values: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.rint(values * _UNIT).astype(np.int64)


def _measure_trust(weights: list[Array], halves: list[list[Array]]) -> list[float]:
    """Reliability of a channel's maps of means and of variances, from each half's weights and its sums of both."""
    weight = np.minimum(*weights)
    counted = weight > 0.5 * max(float(weight.max()), 1e-9)
    means, squares = (
        [sums[number][counted] / own[counted] for own, sums in zip(weights, halves, strict=True)] for number in (0, 1)
    )
    variances = [np.maximum(square - mean**2, 0) for square, mean in zip(squares, means, strict=True)]
    return [_reliability(*means), _reliability(*variances)]


def _reliability(one: Array, two: Array) -> float:
    if one.size < 8 or one.std() == 0 or two.std() == 0:
        return 0.0
    correlation = max(float(np.corrcoef(one, two)[0, 1]), 0.0)
    return 2 * correlation / (1 + correlation)
