# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The largest regions of healthy scans for every choice of sequences that a scan may have."""

from __future__ import annotations

from monai_dpmm_ad.normative.regions import RegionCalibration
from monai_dpmm_ad.ops.subsets import ForSubsets

__all__ = ["SubsetRegions"]


class SubsetRegions(ForSubsets, RegionCalibration):
    """The calibration of scans that have all sequences, and beside it one for every other choice of them.

    Args:
        number: Q of the sequences.
        options: see `RegionCalibration`.
    """

    def __init__(self, number: int, *options: int) -> None:
        super().__init__(*options)
        self.make_parts(number, lambda: RegionCalibration(*options))
