# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""HiMatch-AD: match a slice with the normal slices that are most like it, stage by stage."""

from monai_dpmm_ad.detectors.himatch.detector import HiMatchDetector

__all__ = ["HiMatchDetector"]
