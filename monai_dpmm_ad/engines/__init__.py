# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Ignite engines: embed scans, fit a detector, validate it, map and evaluate scans."""

from __future__ import annotations

from monai_dpmm_ad.engines.embed import embed_dataset
from monai_dpmm_ad.engines.evaluator import PATCH_SUMMARY, ScanEvaluator, iteration_scans
from monai_dpmm_ad.engines.resume import ResumeLog
from monai_dpmm_ad.engines.trainer import DetectorTrainer, HeldOutEvaluator

__all__ = [
    "PATCH_SUMMARY",
    "DetectorTrainer",
    "HeldOutEvaluator",
    "ResumeLog",
    "ScanEvaluator",
    "embed_dataset",
    "iteration_scans",
]
