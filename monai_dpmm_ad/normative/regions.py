# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Connected regions of a finished map, and how often healthy scans show such regions."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.ops.components import find_peaks, label_components
from monai_dpmm_ad.utils.distributed import gather_lists

__all__ = ["MAX_COUNT", "RegionCalibration", "keep_regions", "measure_regions", "regions_scans_needed"]

#: Regions of one healthy scan that are kept: the bound's B with 15 scans or more.
MAX_COUNT = 8
_MAX_SCANS = 4096
_ROUNDING = 1e-9


def regions_scans_needed(false_regions: float) -> int:
    """Number of held-out scans from which on a number of false regions in (0, 8) is guaranteed."""
    if false_regions < 0.5:
        return math.ceil(MAX_COUNT / false_regions - _ROUNDING) - 1
    return 2 * math.floor(false_regions) + 1


def measure_regions(
    anomaly_map: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.int32], NDArray[np.float64], tuple[slice, ...]]:
    """Find the connected regions above a threshold and their statistic, the peak.

    On real heads the peak finds more small lesions at the same number of false regions than the sum of what exceeds
    the threshold: a healthy scan's largest region is wide and low, a small lesion's narrow and high.

    Args:
        anomaly_map: 2D or 3D.
        threshold: a region's scores are greater.

    Returns:
        Labels inside the box around all regions, the highest score of each region, and the box.
    """
    labels, number, box = label_components(anomaly_map > threshold)
    return labels, find_peaks(labels, number, anomaly_map[box]).astype(np.float64), box


def keep_regions(anomaly_map: NDArray[np.float32], threshold: float, least: float) -> NDArray[np.bool_]:
    """The mask of the regions whose peak is greater than ``least``; the rest as for `measure_regions`."""
    labels, peaks, box = measure_regions(anomaly_map, threshold)
    mask = np.zeros(anomaly_map.shape, dtype=bool)
    mask[box] = np.concatenate([[False], peaks > least])[labels]
    return mask


class RegionCalibration(nn.Module):
    """The largest regions of held-out healthy scans, as buffers of fixed shape (about 0.3 MB).

    With M_i the largest statistic of healthy scan i (0 where it has no region), a region of statistic L has

        p = (1 + #{M_i ≥ L}) / (n + 1).

    For a healthy scan drawn like those, P(its smallest p ≤ a) ≤ a: p is valid for the whole scan. At ``false_regions``
    α, the least statistic λ is the smallest for which

        (Σ_i min(#{j: L_ij > λ}, B) + B) / (n + 1) ≤ α,

    so that a new healthy scan shows at most α regions in expectation, counted up to B = :attr:`cap`. B follows from n
    alone: 8, or half of n + 1 where that is less, since few scans cannot tell of many regions. A smaller α never flags
    more; where it asks for more scans than there are, λ is the highest statistic seen and :meth:`guaranteed` is False.

    Args:
        max_scans: of more scans so many are kept, at random.

    Reference:
        Angelopoulos, Bates, Fisch, Lei and Schuster 2024, "Conformal risk control", theorem 1.
    """

    largest: Tensor
    num_scans: Tensor
    held_out: Tensor

    def __init__(self, max_scans: int = _MAX_SCANS) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(max_scans, MAX_COUNT, dtype=torch.float64))
        self.register_buffer("num_scans", torch.zeros((), dtype=torch.int64))
        self.register_buffer("held_out", torch.zeros((), dtype=torch.bool))
        self._pending: list[tuple[str, list[float]]] = []

    @property
    def fitted(self) -> bool:
        """Whether :meth:`finish` has been called, here or before saving."""
        return int(self.num_scans) > 0

    def of(self, present: str | None) -> RegionCalibration:
        """The calibration of scans with these sequences, see `SubsetRegions`; this one where there is one alone."""
        return self

    def update(self, name: str, statistics: NDArray[np.float64]) -> None:
        """Add a healthy scan by its name and the statistics of its regions ``(m,)``."""
        self._pending.append((name, np.sort(statistics)[::-1][:MAX_COUNT].tolist()))

    def finish(self, held_out: bool = True) -> None:
        """Turn the scans seen (by all processes) into buffers.

        Args:
            held_out: False if the scans were also fitted: nothing is guaranteed then.

        Raises:
            NotFittedError: no scan was seen.
        """
        scans = sorted(gather_lists(self._pending))
        if not scans:
            raise NotFittedError("`finish` needs at least one healthy scan. Call `update` first.")
        most = len(self.largest)
        if len(scans) > most:  # a random subset of exchangeable scans is exchangeable
            chosen = np.random.default_rng(0).choice(len(scans), most, replace=False)
            scans = [scans[i] for i in sorted(chosen)]
        self.largest.zero_()
        for row, (_, values) in enumerate(scans):
            self.largest[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
        self.num_scans.fill_(len(scans))
        self.held_out.fill_(held_out)
        self._pending = []

    def _seen(self) -> NDArray[np.float64]:
        if not self.fitted:
            raise NotFittedError("The calibration has seen no scans. Call `update` per healthy scan, then `finish`.")
        return np.asarray(self.largest[: int(self.num_scans)].cpu())

    def p_values(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """The p-value of each region ``(m,)``, never below 1 / (n + 1)."""
        maxima = np.sort(self._seen()[:, 0])
        return (1 + len(maxima) - np.searchsorted(maxima, statistics, side="left")) / (len(maxima) + 1)

    @property
    def cap(self) -> int:
        """Regions of one healthy scan that are counted at most: B."""
        return min(MAX_COUNT, (int(self.num_scans) + 1) // 2)

    def guaranteed(self, false_regions: float) -> bool:
        """Whether :meth:`least_statistic` carries the finite-sample guarantee: held-out scans, and enough of them."""
        enough = false_regions * (len(self._seen()) + 1) + _ROUNDING >= self.cap > false_regions
        return bool(self.held_out) and enough

    def least_statistic(self, false_regions: float = 1.0) -> float:
        """Return the statistic that regions must exceed.

        Args:
            false_regions: α, expected number of flagged regions in a healthy scan, in (0, B).

        Raises:
            NotFittedError: before :meth:`finish`.
            ValueError: α out of range.
        """
        if not 0 < false_regions < MAX_COUNT:
            raise ValueError(f"`false_regions` must lie in (0, {MAX_COUNT}), got {false_regions}. Pass 1.0.")
        seen = self._seen()
        allowed = max(int(np.floor(false_regions * (len(seen) + 1) - self.cap + _ROUNDING)), 0)
        order = np.sort(seen[:, : self.cap].ravel())[::-1]  # regions above λ, over all scans: at most `allowed`
        return float(order[allowed]) if allowed < len(order) else 0.0
