# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Numbers that can be trusted: thresholds, p-values and percentiles from held-out healthy scans.

The exchangeable unit is the *scan*. Voxels of one scan are anything but independent, so n scans with millions of
voxels are n observations. What n scans can promise for voxels is an *expected* share: on average over healthy scans
(those of the calibration and the new one drawn alike), at most ``rate`` of the foreground scores above the threshold.
"""

from __future__ import annotations

from monai_dpmm_ad.calibration.calibration import MAX_IMAGE_SCORES, Calibration, scans_needed
from monai_dpmm_ad.calibration.healthy_scores import HealthyScores

__all__ = ["MAX_IMAGE_SCORES", "Calibration", "HealthyScores", "scans_needed"]
