# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Detectors: what scores patch embeddings."""

from monai_dpmm_ad.detectors.dpmm import DPMMDetector

__all__ = ["DPMMDetector"]
