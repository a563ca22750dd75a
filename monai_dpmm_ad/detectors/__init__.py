# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Detectors: what scores patch embeddings."""

from monai_dpmm_ad.detectors.base import Detector
from monai_dpmm_ad.detectors.dpmm import DPMMDetector
from monai_dpmm_ad.detectors.himatch import HiMatchDetector
from monai_dpmm_ad.detectors.memory_bank import MemoryBankDetector
from monai_dpmm_ad.detectors.ogae.detector import OCSVMGuidedDetector
from monai_dpmm_ad.detectors.registry import DETECTORS, create_detector

__all__ = [
    "DETECTORS",
    "DPMMDetector",
    "Detector",
    "HiMatchDetector",
    "MemoryBankDetector",
    "OCSVMGuidedDetector",
    "create_detector",
]
