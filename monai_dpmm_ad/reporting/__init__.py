# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Pictures and the HTML report; the only place that imports matplotlib (extra ``report``)."""

from __future__ import annotations

from monai_dpmm_ad.reporting.html import write_report
from monai_dpmm_ad.reporting.results import ScanResult, ScoreCalibration
from monai_dpmm_ad.reporting.sheets import plot_overview

__all__ = ["ScanResult", "ScoreCalibration", "plot_overview", "write_report"]
