# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI transforms from a scan's file to the slices of the network, array and dictionary version side by side."""

from __future__ import annotations

from monai_dpmm_ad.errors import find_scan_error, naming_scan, source_of
from monai_dpmm_ad.transforms.foreground import compute_foreground
from monai_dpmm_ad.transforms.intensity import (
    FOREGROUND_FLOOR,
    ScaleIntensityForeground,
    ScaleIntensityForegroundd,
    scale_foreground,
)
from monai_dpmm_ad.transforms.load import LoadScan, LoadScand
from monai_dpmm_ad.transforms.pipeline import preprocess_scan, preprocess_slices
from monai_dpmm_ad.transforms.regions import LoadRegionsd, count_regions, read_regions
from monai_dpmm_ad.transforms.save import SaveScand, output_path, own_format_path, write_map
from monai_dpmm_ad.transforms.save_dicom import SaveDicomd
from monai_dpmm_ad.transforms.slices import SampleSlices, SampleSlicesd

__all__ = [
    "FOREGROUND_FLOOR",
    "LoadRegionsd",
    "LoadScan",
    "LoadScand",
    "SampleSlices",
    "SampleSlicesd",
    "SaveDicomd",
    "SaveScand",
    "ScaleIntensityForeground",
    "ScaleIntensityForegroundd",
    "compute_foreground",
    "count_regions",
    "find_scan_error",
    "naming_scan",
    "output_path",
    "own_format_path",
    "preprocess_scan",
    "preprocess_slices",
    "read_regions",
    "scale_foreground",
    "source_of",
    "write_map",
]
