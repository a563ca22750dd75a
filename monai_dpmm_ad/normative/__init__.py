# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The normative map: every score is judged against healthy scans at the same place."""

from __future__ import annotations

from monai_dpmm_ad.normative.atlas import Atlas
from monai_dpmm_ad.normative.combination import REGION_THRESHOLD, SIDES
from monai_dpmm_ad.normative.frame import FRAMES, Frame
from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample
from monai_dpmm_ad.normative.normative_map import NormativeMap
from monai_dpmm_ad.normative.reference import build_reference
from monai_dpmm_ad.normative.regions import RegionCalibration, keep_regions, measure_regions
from monai_dpmm_ad.normative.registration import fit_box, register

__all__ = [
    "FRAMES",
    "REGION_THRESHOLD",
    "SIDES",
    "Atlas",
    "Frame",
    "Lattice",
    "NormativeMap",
    "RegionCalibration",
    "Volume",
    "build_reference",
    "fit_box",
    "keep_regions",
    "measure_regions",
    "register",
    "resample",
]
