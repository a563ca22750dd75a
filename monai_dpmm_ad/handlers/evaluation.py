# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The figures of an evaluation, for a :class:`~monai_dpmm_ad.engines.ScanEvaluator`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.utils import CommonKeys

from monai_dpmm_ad.handlers.metrics import AnomalyMetricsHandler
from monai_dpmm_ad.metrics import FPR_RATES, AnomalyMetrics
from monai_dpmm_ad.network import AnomalyNet

__all__ = ["ScanMetrics"]


class ScanMetrics(AnomalyMetricsHandler):
    """Compare maps with masks and classes; the thresholds of ``dice_fpr…`` come from the network's calibration.

    A handler among others: data that allow no figure at all are no error, ``figures`` is empty then.

    Args:
        network: its calibration saw the normal validation scans.
        bootstrap: replicates for the intervals.
        seed: of the replicates.
    """

    def __init__(self, network: AnomalyNet, bootstrap: int = 1000, seed: int = 0) -> None:
        self.network = network  # first, since Ignite's constructor calls reset
        super().__init__(output_transform=_scans_of, bootstrap=bootstrap, seed=seed)

    def reset(self) -> None:
        """Forget all scans and read the thresholds, which a checkpoint may just have brought."""
        calibration = self.network.calibration
        if calibration.fitted:
            self.metric.metrics = AnomalyMetrics(
                normal_thresholds={rate: calibration.quantile(rate, whole_field=True) for rate in FPR_RATES},
                normal_thresholds_foreground={rate: calibration.quantile(rate) for rate in FPR_RATES},
            )
        super().reset()

    def attach(self, engine: Engine, name: str = "figures") -> None:  # type: ignore[override]
        """Register the handler's events."""
        super().attach(engine, name)

    def completed(self, engine: Engine, name: str) -> None:
        """Write the figures that the data allow to the engine."""
        try:
            super().completed(engine, name)
        except NotComputableError:
            self.figures = {}


def _scans_of(output: Sequence[dict[str, Any]]) -> tuple[Any, Any, dict[str, Any]] | None:
    """Arguments of the metric for the scans of one iteration; None where the scan failed."""
    if not output:
        return None
    maps = [scan[CommonKeys.PRED].as_subclass(torch.Tensor) for scan in output]
    keywords = {
        "names": [scan[CommonKeys.PRED].meta["name"] for scan in output],
        "foreground": [anomaly_map > 0 for anomaly_map in maps],
        "image_scores": [scan["score"] for scan in output],
        "abnormal": [scan[CommonKeys.PRED].meta["abnormal"] for scan in output],
    }
    return maps, [scan.get(CommonKeys.LABEL) for scan in output], keywords
