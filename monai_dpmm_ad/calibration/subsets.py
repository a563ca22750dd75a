# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A calibration for every choice of sequences that a scan may have."""

from __future__ import annotations

from monai_dpmm_ad.calibration.calibration import Calibration
from monai_dpmm_ad.ops.subsets import ForSubsets

__all__ = ["SubsetCalibration"]


class SubsetCalibration(ForSubsets, Calibration):
    """The calibration of scans that have all sequences, and beside it one for every other choice of them.

    Args:
        number: Q of the sequences.
        num_regions: see `Calibration`.

    Example:
        >>> import torch
        >>> calibration = SubsetCalibration(2)
        >>> calibration.of("10").update(torch.tensor([0.5]), None, image_score=0.5)
        >>> calibration.of("10").finish()
        >>> calibration.of("10").fitted, calibration.of("01").fitted, calibration.of("11") is calibration
        (True, False, True)
    """

    def __init__(self, number: int, num_regions: int = 0) -> None:
        super().__init__(num_regions)
        self.make_parts(number, lambda: Calibration(num_regions))

    def reset(self) -> None:
        """Forget the fit and all pending scans, of every choice."""
        super().reset()
        for present in self.parts:
            self.of(present).reset()
