# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Thin Ignite adapters."""

from monai_dpmm_ad.handlers.best_model import BestModelSaver
from monai_dpmm_ad.handlers.calibration import CalibrationHandler, SubsetCalibrationHandler
from monai_dpmm_ad.handlers.dicom import DicomHandler
from monai_dpmm_ad.handlers.drift import DriftHandler
from monai_dpmm_ad.handlers.intensity import IntensityTailHandler
from monai_dpmm_ad.handlers.metrics import AnomalyMapMetric, AnomalyMetricsHandler, MetricsTable, ScanMetrics
from monai_dpmm_ad.handlers.place import NormativeHandler
from monai_dpmm_ad.handlers.progress import ScanProgress
from monai_dpmm_ad.handlers.scan_row import ScanRow
from monai_dpmm_ad.handlers.sites import SiteHandler
from monai_dpmm_ad.handlers.tables import ScanTable

__all__ = [
    "AnomalyMapMetric",
    "AnomalyMetricsHandler",
    "BestModelSaver",
    "CalibrationHandler",
    "DicomHandler",
    "DriftHandler",
    "IntensityTailHandler",
    "MetricsTable",
    "NormativeHandler",
    "ScanMetrics",
    "ScanProgress",
    "ScanRow",
    "ScanTable",
    "SiteHandler",
    "SubsetCalibrationHandler",
]
