# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a map in native space to what a user decides by: mask, score, p-value."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_dpmm_ad.calibration import MAX_IMAGE_SCORES, Calibration
from monai_dpmm_ad.errors import ScanError, source_of, unknown_option
from monai_dpmm_ad.ops.pooling import POOLING_METHODS, pool_image_score

__all__ = ["ScoreScand"]


class ScoreScand(MapTransform):
    """Add mask, percentile, score, p-value, its smallest value and threshold to a scan with ``pred`` in native space.

    The threshold is applied where it was calibrated: on the finished map, not on the patch grid. A scan with
    ``regions`` gets each region's own, where the calibration has them.

    Args:
        calibration: read at call time, when a checkpoint has filled it.
        rate: false-positive rate of the mask, a share of healthy foreground voxels.
        pooling: how patch scores become an image score, see :func:`~monai_dpmm_ad.ops.pooling.pool_image_score`.
    """

    def __init__(self, calibration: Calibration, rate: float = 0.01, pooling: str = "top1pct") -> None:
        super().__init__(keys="pred")
        if not 0 < rate < 1:
            raise ValueError(f"`rate` must lie in (0, 1), got {rate}. Pass 0.01 for 1 %.")
        if pooling not in POOLING_METHODS:
            raise unknown_option("pooling", pooling, POOLING_METHODS)
        self.calibration = calibration
        self.rate = rate
        self.pooling = pooling

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        anomaly_map = torch.as_tensor(out["pred"]).float()
        if not (anomaly_map > 0).any():
            raise ScanError(
                source_of(out["image"]),
                "shows nothing that could be scored: no patch holds enough foreground; is it an image of the kind that "
                "was fitted?",
            )
        out["score"] = float(pool_image_score(anomaly_map, anomaly_map > 0, self.pooling))
        meta = {**out["image"].meta, **out["pred"].meta}
        # MONAI keeps what it knows of a scan beside the engine's output; the class has to travel with the map.
        meta["abnormal"] = None if out.get("abnormal") is None else int(out["abnormal"])
        calibration = self.calibration
        if calibration.fitted:
            out["threshold"] = meta["threshold"] = float(calibration.threshold(self.rate))
            out["p_value"] = float(calibration.p_value(out["score"]))
            values = anomaly_map.as_subclass(torch.Tensor)
            out["smallest_p_value"] = 1 / (min(int(calibration.num_scans), MAX_IMAGE_SCORES) + 1)
            out["mask"] = MetaTensor(values > self._thresholds(out, values), meta=meta)
            out["percentile"] = MetaTensor(calibration.percentile(values), meta={**meta, "threshold": 50.0})
        out["pred"] = MetaTensor(anomaly_map.as_subclass(torch.Tensor), meta=meta)
        return out

    def _thresholds(self, data: Mapping[Hashable, Any], like: torch.Tensor) -> float | torch.Tensor:
        calibration, regions = self.calibration, data.get("regions")
        if regions is None or not calibration.num_regions:
            return float(data["threshold"])
        return calibration.threshold_map(torch.as_tensor(regions).as_subclass(torch.Tensor).to(like.device), self.rate)
