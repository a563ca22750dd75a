# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The largest regions of healthy scans for every choice of sequences that a scan may have."""

from __future__ import annotations

from torch import nn

from monai_dpmm_ad.normative.regions import RegionCalibration
from monai_dpmm_ad.ops.subsets import list_subsets

__all__ = ["SubsetRegions"]


class SubsetRegions(RegionCalibration):
    """The calibration of scans that have all sequences, and beside it one for every other choice of them.

    Args:
        number: Q of the sequences.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        *others, self.whole = list_subsets(number)
        self.parts = nn.ModuleDict({present: RegionCalibration() for present in others})

    def of(self, present: str | None) -> RegionCalibration:
        """The calibration of scans with the sequences ``present``, as ``"101"``; None for all."""
        if present is None or present == self.whole:
            return self
        part = self.parts[present]
        assert isinstance(part, RegionCalibration)
        return part
