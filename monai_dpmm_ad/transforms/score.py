# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a map in native space to what a user decides by: mask, score, p-value."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_dpmm_ad.calibration import MAX_IMAGE_SCORES, Calibration
from monai_dpmm_ad.data.covariates import read_person
from monai_dpmm_ad.errors import ScanError, source_of, unknown_option
from monai_dpmm_ad.normative import REGION_THRESHOLD, RegionCalibration, keep_regions
from monai_dpmm_ad.normative.covariates import Design
from monai_dpmm_ad.ops.components import remove_small
from monai_dpmm_ad.ops.pooling import POOLING_METHODS, pool_image_score

__all__ = ["DEFAULT_RATE", "ScoreScand"]

#: False-positive rate of a mask by voxels, where nobody says another.
DEFAULT_RATE = 0.01


def choose_pooling(pooling: str, scan: Mapping[Any, Any]) -> str:
    """How a scan's map becomes its score where ``pooling`` leaves it open: it depends on whether it has a frame."""
    if pooling != "auto":
        return pooling
    return "top1pct" if scan.get("frame") is None else "top01pct"


class _Judge(Protocol):
    @property
    def calibration(self) -> Calibration: ...

    @property
    def regions(self) -> RegionCalibration: ...


class _HasGroups(Protocol):
    @property
    def design(self) -> Design | None: ...

    def find_group(self, person: Mapping[str, Any]) -> str | None: ...

    def judge_of(self, group: str | None) -> _Judge: ...


class ScoreScand(MapTransform):
    """Add mask, percentile, score, p-value, its smallest value and threshold to a scan with ``pred`` in native space.

    The mask holds regions, of which a healthy scan has ``false_regions`` in expectation, where a calibration of regions
    is fitted and no rate is asked for; else voxels. Thresholds are applied where they were calibrated: on the finished
    map, not on the patch grid. A scan with ``regions`` gets each region's own voxel threshold, where the calibration
    has them.

    Args:
        calibration: read at call time, when a checkpoint has filled it.
        rate: false-positive rate of the mask, a share of healthy foreground voxels; None prefers regions.
        pooling: how a map becomes an image score, see :func:`~monai_dpmm_ad.ops.pooling.pool_image_score`; ``auto`` is
            ``top01pct`` for a map that was judged by place, where little else than what is unusual stands out, and
            ``top1pct`` otherwise.
        regions: how often healthy scans show regions; read at call time.
        false_regions: expected number of flagged regions in a healthy scan.
        groups: knows the people's groups and what each is judged by, in place of ``calibration`` and ``regions``; what
            it says of the scan is added as ``group`` and ``covariates``.
        min_region_volume: smaller regions are left out of the mask, in mm³; in pixels for a picture.

    Example:
        >>> from monai_dpmm_ad.calibration import Calibration
        >>> scan = {"image": MetaTensor(torch.ones(1, 4, 4)), "pred": MetaTensor(torch.ones(1, 4, 4))}
        >>> ScoreScand(Calibration(), pooling="max")(scan)["score"]
        1.0
    """

    def __init__(
        self,
        calibration: Calibration,
        rate: float | None = None,
        pooling: str = "auto",
        regions: RegionCalibration | None = None,
        false_regions: float = 1.0,
        groups: _HasGroups | None = None,
        min_region_volume: float = 0.0,
    ) -> None:
        super().__init__(keys="pred")
        if rate is not None and not 0 < rate < 1:
            raise ValueError(f"`rate` must lie in (0, 1), got {rate}. Pass 0.01 for 1 %.")
        if pooling not in ("auto", *POOLING_METHODS):
            raise unknown_option("pooling", pooling, ("auto", *POOLING_METHODS))
        self.calibration = calibration
        self.rate = rate
        self.pooling = pooling
        self.regions = regions
        self.false_regions = false_regions
        self.groups = groups
        self.min_region_volume = min_region_volume

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        anomaly_map = torch.as_tensor(out["pred"]).float()
        if not (anomaly_map > 0).any():
            raise ScanError(
                source_of(out["image"]),
                "shows nothing that could be scored: no patch holds enough foreground; is it an image of the kind that "
                "was fitted?",
            )
        out["score"] = float(pool_image_score(anomaly_map, anomaly_map > 0, choose_pooling(self.pooling, out)))
        meta = {**out["image"].meta, **out["pred"].meta}
        # MONAI keeps what it knows of a scan beside the engine's output; the class has to travel with the map.
        meta["abnormal"] = None if out.get("abnormal") is None else int(out["abnormal"])
        calibration, regions = self._choose_judge(out)
        if calibration.fitted:
            values = anomaly_map.as_subclass(torch.Tensor)
            threshold, mask = self._flag(out, values, calibration, regions)
            out["threshold"] = meta["threshold"] = threshold
            if getattr(out.get("frame"), "kind", None) != "none":  # scores of what has a place are no measure of it
                out["p_value"] = float(calibration.p_value(out["score"]))
                out["smallest_p_value"] = 1 / (min(int(calibration.num_scans), MAX_IMAGE_SCORES) + 1)
            out["mask"] = MetaTensor(self._drop_small(mask, out["pred"]), meta=meta)
            out["percentile"] = MetaTensor(calibration.percentile(values), meta={**meta, "threshold": 50.0})
        out["pred"] = MetaTensor(anomaly_map.as_subclass(torch.Tensor), meta=meta)
        return out

    def _drop_small(self, mask: Tensor, anomaly_map: MetaTensor) -> Tensor:
        """A mask ``(1, *spatial)`` without the regions that are too small."""
        if not self.min_region_volume:
            return mask
        affine = np.asarray(anomaly_map.meta["original_affine"])  # as `compute_regions` is given it
        size = 1.0 if mask.ndim == 3 else float(abs(np.linalg.det(affine[:3, :3])))
        return torch.from_numpy(remove_small(mask[0].cpu().numpy(), size, self.min_region_volume))[None]

    def _choose_judge(self, out: dict[Hashable, Any]) -> tuple[Calibration, RegionCalibration | None]:
        """What the scan's person is judged by; says in ``out`` what of the person is known."""
        present = out["image"].meta.get("present")
        calibration, regions = self.calibration.of(present), None if self.regions is None else self.regions.of(present)
        if self.groups is None or self.groups.design is None:
            return calibration, regions
        person = read_person(out["image"].meta)
        out["covariates"], out["group"] = self.groups.design.describe(person) or None, self.groups.find_group(person)
        own = self.groups.judge_of(out["group"])
        if not own.calibration.of(present).fitted:  # nobody of the group had these sequences
            out["group"], own = None, self.groups.judge_of(None)
        return own.calibration.of(present), own.regions.of(present)

    def _flag(
        self,
        data: Mapping[Hashable, Any],
        values: Tensor,
        calibration: Calibration,
        regions: RegionCalibration | None,
    ) -> tuple[float, Tensor]:
        """The score above which a voxel may be flagged, and the mask."""
        placed = getattr(data.get("frame"), "kind", "none") != "none"  # healthy pictures' regions are not known
        if self.rate is None and placed and regions is not None and regions.fitted:
            least = regions.least_statistic(self.false_regions)
            mask = keep_regions(values[0].cpu().numpy(), REGION_THRESHOLD, least)
            return REGION_THRESHOLD, torch.from_numpy(mask)[None]
        rate = DEFAULT_RATE if self.rate is None else self.rate
        threshold = float(calibration.threshold(rate))
        atlas = data.get("regions")
        if atlas is None or not calibration.num_regions:
            return threshold, values > threshold
        labels = torch.as_tensor(atlas).as_subclass(torch.Tensor).to(values.device)
        return threshold, values > calibration.threshold_map(labels, rate)
