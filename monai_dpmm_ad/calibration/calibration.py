# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Thresholds, p-values and percentiles from what healthy scans scored."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from monai_dpmm_ad.calibration.healthy_scores import HealthyScores
from monai_dpmm_ad.calibration.quantiles import LEVELS, TOLERANCE, find_knots, find_quantile, interpolate_shares
from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.ops.slabs import slab_bounds

__all__ = ["MAX_IMAGE_SCORES", "Calibration", "scans_needed"]

MAX_IMAGE_SCORES = 4096
#: m, see `Calibration`: how many more scans than the fewest a promise takes, as a share of those.
_MARGIN = 0.25


def scans_needed(rate: float) -> int:
    """Number of held-out scans with which a false-positive rate in (0, 1) is guaranteed."""
    return max(1, math.ceil((1 + _MARGIN) / rate * (1 - TOLERANCE)) - 1)


def _is_promised(rate: float, count: int) -> bool:
    return rate * (count + 1) >= (1 + _MARGIN) * (1 - TOLERANCE)


def _allowed_share(rate: float, count: int) -> float:
    """Mean share of the healthy scans' foreground that may score above the threshold; rises with the rate."""
    if _is_promised(rate, count):
        return (rate * (count + 1) - 1) / count  # conformal risk control
    return min(rate, _MARGIN / count)  # the plain quantile, up to where the promise begins


class Calibration(nn.Module):
    """What healthy scores look like, as buffers of fixed shape (about 50 KB, whatever the number of scans).

    Feed held-out healthy scans with :meth:`update`, then call :meth:`finish`. Each scan has the same weight, however
    many voxels it has.

    Args:
        num_regions: regions of an integer atlas (labels 1 … ``num_regions``; 0 is nowhere) with thresholds of their
            own; 0 for none.

    Voxel threshold, for a rate and n scans: the smallest t with

        n / (n + 1) · mean_i FPR_i(t) + 1 / (n + 1) ≤ rate,    FPR_i(t) = share of scan i's foreground with score > t.

    Then E[FPR of a new healthy scan] ≤ rate, whatever the distribution. It needs n ≥ (1 + m) / rate − 1 scans (12 for
    10 %, 24 for 5 %, 124 for 1 %; see :func:`scans_needed`). With fewer, or with scans that were also fitted,
    :meth:`guaranteed` is False and the threshold is the plain quantile of the healthy scores, but of held-out scans
    never below that of the smallest rate that they can promise: a lower rate never flags more.

    m = 1/4 is what makes both worth having. With m = 0 any n that can promise a rate at all would do (9, 19, 99), but
    at the smallest n the threshold is the highest of all healthy scores, and every lower rate would have to keep it.

    Reference:
        Angelopoulos, Bates, Fisch, Lei and Schuster 2024, "Conformal risk control", theorem 1, with B = 1. Smoothed
        p-values: Vovk, Gammerman and Shafer 2005, section 2.3.

    Example:
        >>> calibration = Calibration()
        >>> for i in range(19):
        ...     healthy = torch.linspace(0.01, 1, 100)
        ...     calibration.update(healthy, healthy > 0, image_score=0.5 + i / 100)
        >>> calibration.finish()
        >>> round(calibration.threshold(0.10), 2), calibration.guaranteed(0.10), calibration.guaranteed(0.01)
        (0.95, True, False)
        >>> calibration.p_value(0.9)
        0.05
    """

    #: the sequences of the scans that it is for, see `SubsetCalibration`
    whole = "1"
    knots: Tensor
    region_knots: Tensor
    region_scans: Tensor
    image_scores: Tensor
    foreground_share: Tensor
    num_scans: Tensor
    held_out: Tensor

    def __init__(self, num_regions: int = 0) -> None:
        super().__init__()
        if num_regions < 0:
            raise ValueError(f"`num_regions` must not be negative, got {num_regions}. Pass 0 for no regions.")
        self.num_regions = num_regions
        self.register_buffer("knots", torch.zeros(len(LEVELS)))
        self.register_buffer("region_knots", torch.zeros(num_regions, len(LEVELS)))
        self.register_buffer("region_scans", torch.zeros(num_regions, dtype=torch.int64))
        self.register_buffer("image_scores", torch.full((MAX_IMAGE_SCORES,), torch.inf, dtype=torch.float64))
        self.register_buffer("foreground_share", torch.zeros((), dtype=torch.float64))
        self.register_buffer("num_scans", torch.zeros((), dtype=torch.int64))
        self.register_buffer("held_out", torch.zeros((), dtype=torch.bool))
        self._pending = HealthyScores(num_regions)

    def reset(self) -> None:
        """Forget the fit and all pending scans."""
        self._pending = HealthyScores(self.num_regions)
        for buffer in self.buffers():
            buffer.zero_()
        self.image_scores.fill_(torch.inf)

    @property
    def fitted(self) -> bool:
        """Whether :meth:`finish` has been called, here or before saving."""
        return int(self.num_scans) > 0

    def update(
        self,
        score_map: Tensor,
        foreground: Tensor | None,
        image_score: float,
        name: str | None = None,
        regions: Tensor | None = None,
    ) -> None:
        """Add one healthy scan.

        Args:
            score_map: any shape, nonnegative, in the space where thresholds will be applied.
            foreground: boolean, same shape: which scores count; all of them if None.
            image_score: the scan's score.
            name: if given, a scan that comes twice is refused.
            regions: integer atlas, same shape; a scan without it counts for the whole foreground only.

        Raises:
            ValueError: shapes differ, scores are negative or not finite, no foreground, a name seen before, or
                ``regions`` without ``num_regions``.
        """
        self._pending.add(score_map, foreground, image_score, name, regions)

    def finish(self, held_out: bool = True) -> None:
        """Turn the scans seen (by all processes of ``torch.distributed``) into buffers.

        Args:
            held_out: False if the scans were also used to fit the detector: nothing is guaranteed then.

        Raises:
            NotFittedError: no scan was seen, or no region in any of them.
            ValueError: two processes saw the same name.
        """
        pending = self._pending
        pending.gather()
        if not pending.image_scores:
            raise NotFittedError("`finish` needs at least one healthy scan. Call `update` first.")
        if self.num_regions and not pending.counts[1:].any():
            raise NotFittedError(
                f"`finish` needs a scan with one of the {self.num_regions} regions. Give an atlas, or no regions."
            )
        for row, histogram in pending.histograms.items():
            target = self.region_knots[row - 1] if row else self.knots
            target.copy_(torch.from_numpy(find_knots(histogram)))
        self.region_scans.copy_(torch.from_numpy(pending.counts[1:]))
        scores = np.sort(pending.image_scores)  # first: which are chosen depends neither on order nor on processes
        if scores.size > MAX_IMAGE_SCORES:
            # A random subset of exchangeable scores is exchangeable: p-values stay valid.
            scores = np.random.default_rng(0).choice(scores, MAX_IMAGE_SCORES, replace=False)
        self.image_scores.fill_(torch.inf)
        self.image_scores[: scores.size] = torch.from_numpy(np.sort(scores))
        self.foreground_share.fill_(float(np.mean(pending.foreground_shares)))
        self.num_scans.fill_(len(pending.image_scores))
        self.held_out.fill_(held_out)
        self._pending = HealthyScores(self.num_regions)

    def of(self, present: str | None) -> Calibration:
        """The calibration of scans with these sequences, see `SubsetCalibration`; this one where there is one alone."""
        return self

    def _check(self) -> None:
        if not self.fitted:
            raise NotFittedError("The calibration has seen no scans. Call `update` per healthy scan, then `finish`.")

    def threshold(self, rate: float, region: int | None = None) -> float:
        """Return the score that a healthy scan's foreground exceeds in an expected share of at most ``rate``.

        Args:
            rate: false-positive rate, in (0, 1); a voxel is flagged if its score is *greater* than the threshold.
            region: 1 … ``num_regions`` for that region's own threshold; a region that no scan had gets the whole
                foreground's.

        Raises:
            NotFittedError: before :meth:`finish`.
            ValueError: rate or region out of range.
        """
        knots, count = self._distribution(rate, region)
        share = _allowed_share(rate, count) if self.held_out else rate
        # Rounding up to the next knot keeps the promise: false positives only fall with the threshold.
        return find_quantile(knots, 1 - share)

    def quantile(self, rate: float, whole_field: bool = False) -> float:
        """Return the score that a share ``rate`` of the healthy pixels exceeded: no correction, no promise.

        It is what papers call the threshold at a false-positive rate on normal validation pixels.

        Args:
            rate: false-positive rate, in (0, 1).
            whole_field: count the background, whose score is 0, among the pixels, as if its share were that of the
                mean scan.

        Raises:
            NotFittedError: before :meth:`finish`.
            ValueError: rate out of range.
        """
        knots, _ = self._distribution(rate, None)
        share = rate / float(self.foreground_share) if whole_field else rate
        return 0.0 if share >= 1 else find_quantile(knots, 1 - share)

    def guaranteed(self, rate: float, region: int | None = None) -> bool:
        """Whether :meth:`threshold` carries the finite-sample guarantee: held-out scans, and enough of them."""
        return bool(self.held_out) and _is_promised(rate, self._distribution(rate, region)[1])

    def _distribution(self, rate: float, region: int | None) -> tuple[Tensor, int]:
        self._check()
        if not 0 < rate < 1:
            raise ValueError(f"`rate` must lie in (0, 1), got {rate}. Pass 0.01 for 1 %.")
        if region is None:
            return self.knots, int(self.num_scans)
        if not 1 <= region <= self.num_regions:
            raise ValueError(f"`region` must lie between 1 and {self.num_regions}, got {region}.")
        count = int(self.region_scans[region - 1])
        return (self.region_knots[region - 1], count) if count else (self.knots, int(self.num_scans))

    def threshold_map(self, regions: Tensor, rate: float) -> Tensor:
        """Look up each position's own threshold.

        Args:
            regions: integer atlas, any shape; 0 and unknown labels get the whole foreground's threshold.
            rate: false-positive rate, in (0, 1).

        Returns:
            float32 thresholds, same shape and device.
        """
        whole = self.threshold(rate)
        table = torch.tensor(
            [whole, *(self.threshold(rate, region) for region in range(1, self.num_regions + 1))], device=regions.device
        )
        known = (regions >= 0) & (regions <= self.num_regions)
        return table[torch.where(known, regions, 0).long()]

    def p_value(self, image_score: float, tie_break: float = 1.0) -> float:
        """Compute a scan's conformal p-value against the healthy scans.

            p = (#{s_i > s} + u · (1 + #{s_i = s})) / (n + 1)

        Args:
            image_score: s.
            tie_break: u in [0, 1]. The default 1 gives ``(1 + #{s_i ≥ s}) / (n + 1)``: for a healthy scan,
                P(p ≤ a) ≤ a. A uniform random number makes it exact, P(p ≤ a) = a, ties or not.

        Returns:
            In (0, 1]; never below 1 / (n + 1) with the default.
        """
        self._check()
        if not 0 <= tie_break <= 1:
            raise ValueError(f"`tie_break` must lie in [0, 1], got {tie_break}.")
        scores = self.image_scores[: min(int(self.num_scans), MAX_IMAGE_SCORES)]
        greater, equal = int((scores > image_score).sum()), int((scores == image_score).sum())
        return (greater + tie_break * (1 + equal)) / (len(scores) + 1)

    def percentile(self, score_map: Tensor) -> Tensor:
        """Turn scores into percentiles among the healthy foreground.

        Args:
            score_map: any shape, any device.

        Returns:
            float32 in [0, 100], same shape: the share of healthy scores below, in per cent; 0 where the score is 0
            (background).
        """
        self._check()
        scores = score_map.to(torch.float32)
        knots, percentiles = self.knots.to(scores.device), torch.zeros_like(scores)
        source, target = scores, percentiles
        while source.ndim > 1 and len(source) == 1:
            source, target = source[0], target[0]
        for slab in slab_bounds(source.shape):  # looking up takes several times the memory of what is looked up
            found = source[slab] > 0
            target[slab].masked_scatter_(found, 100 * interpolate_shares(knots, source[slab][found]))
        return percentiles
