# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the report is told about each scan and about the calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai_dpmm_ad.handlers.regions import Region
from monai_dpmm_ad.utils.files import PathLike

__all__ = ["ScanResult", "ScoreCalibration"]


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """One scan with its map, as files on disk, and its numbers; what is not known is None.

    Args:
        name: shown to the reader.
        image: the scan: a volume, a picture, or a DICOM series as its folder or files.
        anomaly_map: NIfTI on the scan's grid, or a 16-bit PNG in which mid-grey is the threshold.
        score: image score, higher is more anomalous.
        mask: flagged voxels, on the scan's grid.
        label: true abnormal voxels, on the scan's grid.
        p_value: conformal p-value of the score.
        threshold: what the map is compared with to give the mask, in the map's unit.
        num_regions: number of flagged regions; None without a mask.
        regions: those of them that can be shown, the most important first.
        frame: how the scan was brought to the fitted cohort's space.
        frame_quality: how well, a correlation.
        in_range: False where the scan lies outside of what was fitted, so that its p-values are not promised.
        person: what of the person was taken into account, and the group in which the scan is judged.
        volume_ml: flagged volume in mL.
        abnormal: the truth about the whole scan.
        warning: why the scan should not be relied on, or what its file leaves open.
        smallest_p_value: the least that so few healthy scans allow.
        healthy: the mean of healthy scans at this scan's places, on its grid and in its units.
        channel: which volume of a 4D file is shown, from 0.
    """

    name: str
    image: PathLike | Sequence[str]
    anomaly_map: PathLike
    score: float
    mask: PathLike | None = None
    label: PathLike | None = None
    p_value: float | None = None
    threshold: float | None = None
    num_regions: int | None = None
    volume_ml: float | None = None
    abnormal: bool | None = None
    warning: str | None = None
    smallest_p_value: float | None = None
    healthy: PathLike | None = None
    channel: int | None = None
    regions: Sequence[Region] = ()
    frame: str | None = None
    frame_quality: float | None = None
    in_range: bool | None = None
    person: str | None = None

    @property
    def placed(self) -> str | None:
        """Frame and its quality in one word each."""
        quality = "" if self.frame_quality is None else f" {self.frame_quality:.2f}"
        return None if self.frame is None else f"{self.frame}{quality}"

    @property
    def region_p_value(self) -> float | None:
        """The smallest of a region, None where there is none or it is not known."""
        return self.regions[0].p_value if self.regions else None


@dataclass(frozen=True, kw_only=True)
class ScoreCalibration:
    """What scan scores are compared with.

    Args:
        healthy_scores: image scores of the held-out healthy scans.
        threshold: a scan above it is called abnormal, None where no threshold is set.
        rate: share of healthy scans that the threshold lets through by mistake, None where not known.
    """

    healthy_scores: Sequence[float]
    threshold: float | None = None
    rate: float | None = None

    @classmethod
    def at_rate(cls, healthy_scores: Sequence[float], rate: float = 0.05) -> ScoreCalibration:
        """Set the threshold above which a scan's conformal p-value is at most ``rate``.

        Of n healthy scores, a p-value (1 + number not below the score) / (n + 1) ≤ rate means a score above the k-th
        largest, k = ⌊rate · (n + 1)⌋. With k = 0 there are too few healthy scans, and there is no threshold.

        Example:
            >>> ScoreCalibration.at_rate([0.1 * i for i in range(19)], rate=0.1).threshold
            1.7000000000000002
            >>> ScoreCalibration.at_rate([0.3, 0.4], rate=0.1).threshold is None
            True

        Raises:
            ValueError: when ``rate`` is not between 0 and 1.
        """
        if not 0 < rate < 1:
            raise ValueError(f"`rate` must lie between 0 and 1, got {rate}. Give a share such as 0.05.")
        scores = sorted(float(score) for score in healthy_scores)
        rank = math.floor(rate * (len(scores) + 1) + 1e-9)
        return cls(healthy_scores=scores, threshold=scores[-rank] if rank else None, rate=rate if rank else None)
