# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The scores of healthy scans while they are collected, in bounded memory, over all processes."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from monai_dpmm_ad.ops.histogram import FINE, SparseSum, count_scores
from monai_dpmm_ad.utils.distributed import gather_lists, get_world_size

__all__ = ["HealthyScores"]


class HealthyScores:
    """Histograms of voxel scores, in which every scan has the same weight, and the scans' own scores.

    Args:
        num_regions: labels 1 … ``num_regions`` of an atlas have histograms of their own.

    Attributes:
        histograms: per region, 0 for the whole foreground; a region that no scan had is absent.
        counts: number of scans that had each region, ``(num_regions + 1,)``.
        image_scores: one for each scan.
        foreground_shares: share of each scan's field that is foreground.
    """

    def __init__(self, num_regions: int = 0) -> None:
        self.num_regions = num_regions
        self.histograms: dict[int, SparseSum] = {}
        self.counts = np.zeros(num_regions + 1, dtype=np.int64)
        self.image_scores: list[float] = []
        self.foreground_shares: list[float] = []
        self._names: set[str] = set()

    def add(
        self,
        score_map: Tensor,
        foreground: Tensor | None,
        image_score: float,
        name: str | None = None,
        regions: Tensor | None = None,
    ) -> None:
        """Add a scan; for the arguments see :meth:`~monai_dpmm_ad.calibration.Calibration.update`.

        Raises:
            ValueError: what that method lists.
        """
        label = "this scan" if name is None else f"scan '{name}'"
        if name is not None and name in self._names:
            raise ValueError(f"`name` must be unique, got '{name}' twice. Calibrate with each scan once.")
        if regions is not None and not self.num_regions:
            raise ValueError("`regions` must be left out of a calibration with `num_regions` = 0, got an atlas.")
        if not math.isfinite(image_score):
            raise ValueError(f"`image_score` must be finite, got {image_score} in {label}.")
        scores = score_map.detach().float().cpu().numpy()
        inside = np.ones_like(scores, dtype=bool) if foreground is None else foreground.detach().cpu().numpy() > 0
        atlas = None if regions is None else regions.detach().cpu().numpy()
        for key, array in (("foreground", inside), ("regions", atlas)):
            if array is not None and array.shape != scores.shape:
                raise ValueError(f"`{key}` must have the map's shape {scores.shape}, got {array.shape} in {label}.")
        values = scores[inside]
        if values.size == 0:
            raise ValueError(f"`foreground` must not be empty, got no foreground in {label}. Leave the scan out.")
        if not (np.isfinite(values.min() + values.max()) and values.min() >= 0):
            raise ValueError(f"`score_map` must be finite and nonnegative, got other values in {label}.")
        self._count(0, values)
        if atlas is not None:
            for region in np.unique(atlas[inside]):
                if 1 <= region <= self.num_regions:
                    self._count(int(region), values[atlas[inside] == region])
        self.image_scores.append(float(image_score))
        self.foreground_shares.append(values.size / scores.size)
        if name is not None:
            self._names.add(name)

    def _count(self, region: int, values: np.ndarray) -> None:
        keys, counts = count_scores(values, None, FINE)
        self.histograms.setdefault(region, SparseSum(width=1)).add(keys, counts[:, None] / values.size)
        self.counts[region] += 1

    def gather(self) -> None:
        """Take over the scans that the other processes of ``torch.distributed`` saw.

        Raises:
            ValueError: two processes saw the same name.
        """
        if get_world_size() == 1:
            return
        histograms = {row: total.result() for row, total in self.histograms.items()}
        mine = (histograms, self.counts, self.image_scores, sorted(self._names), self.foreground_shares)
        states = gather_lists([mine])
        names = [name for state in states for name in state[3]]
        if len(set(names)) < len(names):
            raise ValueError(
                "Every scan must be calibrated once, got one twice. Use a sampler with even_divisible=False."
            )
        self.histograms = {}
        for row, histogram in (item for state in states for item in state[0].items()):
            self.histograms.setdefault(row, SparseSum(width=1)).add(*histogram)
        self.counts = np.sum([state[1] for state in states], axis=0)
        self.image_scores = [score for state in states for score in state[2]]
        self.foreground_shares = [share for state in states for share in state[4]]
