# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Calibrations of groups of people, so that what is promised holds inside each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.data.covariates import find_group, name_groups
from monai_dpmm_ad.normative import RegionCalibration
from monai_dpmm_ad.normative.covariates import Design

__all__ = ["GROUPINGS", "Groups", "Judge"]

#: By what people may be calibrated apart.
GROUPINGS = ("none", "sex", "age")
_MAX_SCANS = 1024


class Judge(NamedTuple):
    """What healthy scans show: of all people, or of a group."""

    calibration: Calibration
    regions: RegionCalibration


class Groups(nn.Module):
    """A calibration of voxels, scans and regions for each group: by sex, or thirds of the fitted people by age.

    A person of a group is judged by held-out healthy people of that group alone, and what is promised is promised
    inside of it (Mondrian conformal prediction). The groups depend on the fitted people only.

    Args:
        by: one of `GROUPINGS` but none.
        num_regions: of the calibrations, as of all people.

    Reference:
        Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", section 4.5.
    """

    def __init__(self, by: str, num_regions: int = 0) -> None:
        super().__init__()
        self.by = by
        count = len(name_groups(by, (0.0, 0.0)))
        self.calibrations = nn.ModuleList(Calibration(num_regions) for _ in range(count))
        self.regions = nn.ModuleList(RegionCalibration(_MAX_SCANS) for _ in range(count))

    def find(self, design: Design, person: Mapping[str, Any]) -> str | None:
        """The name of a person's group; None where it is not known."""
        return find_group(self.by, person, design.thirds) if self.by in design.names else None

    def judges(self, design: Design) -> dict[str, Judge]:
        """What each group is judged by, by its name."""
        parts = zip(name_groups(self.by, design.thirds), self.calibrations, self.regions, strict=True)
        return {name: Judge(calibration, regions) for name, calibration, regions in parts}  # type: ignore[arg-type]
