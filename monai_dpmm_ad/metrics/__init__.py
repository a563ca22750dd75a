# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Metrics of anomaly maps, streaming or exact, with intervals; no MONAI and no Ignite in here."""

from __future__ import annotations

from monai_dpmm_ad.metrics.accumulator import FPR_RATES
from monai_dpmm_ad.metrics.anomaly_metrics import AnomalyMetrics
from monai_dpmm_ad.metrics.curves import Curve
from monai_dpmm_ad.metrics.froc import FROC_BUDGETS, compute_froc, find_false_positive_events
from monai_dpmm_ad.metrics.functional import (
    compute_aupro,
    compute_auroc,
    compute_average_precision,
    compute_best_dice,
    compute_dice_at_fpr,
)

__all__ = [
    "FPR_RATES",
    "FROC_BUDGETS",
    "AnomalyMetrics",
    "Curve",
    "compute_aupro",
    "compute_auroc",
    "compute_average_precision",
    "compute_best_dice",
    "compute_dice_at_fpr",
    "compute_froc",
    "find_false_positive_events",
]
