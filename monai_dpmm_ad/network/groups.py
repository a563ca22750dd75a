# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Calibrations of groups of people, so that what is promised holds inside each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.data.people import find_group, name_groups
from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.normative import RegionCalibration
from monai_dpmm_ad.normative.covariates import Design

__all__ = ["GROUPINGS", "MAX_SCANS", "Groups", "Judge", "Judging"]

#: By what people may be calibrated apart.
GROUPINGS = ("none", "sex", "age", "site")
#: Scans of a group that its calibration of regions keeps, at most.
MAX_SCANS = 1024


class Judge(NamedTuple):
    """What healthy scans show: of all people, or of a group."""

    calibration: Calibration
    regions: RegionCalibration


class Groups(nn.Module):
    """A calibration of voxels, scans and regions for each group: by sex, site, or thirds of the fitted people by age.

    A person of a group is judged by held-out healthy people of that group alone, and what is promised is promised
    inside of it (Mondrian conformal prediction). The groups depend on the fitted people only.

    Args:
        by: one of `GROUPINGS` but none.
        make: makes what a group is judged by.
        sites: the names of those that were fitted.

    Reference:
        Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", section 4.5.
    """

    def __init__(self, by: str, make: Callable[[], Judge], sites: Sequence[str] = ()) -> None:
        super().__init__()
        self.by = by
        judges = [make() for _ in name_groups(by, (0.0, 0.0), sites)]
        self.calibrations = nn.ModuleList(judge.calibration for judge in judges)
        self.regions = nn.ModuleList(judge.regions for judge in judges)

    def find(self, design: Design, person: Mapping[str, Any]) -> str | None:
        """The name of a person's group; None where it is not known."""
        return find_group(self.by, person, design.thirds, design.sites) if self.by in design.names else None

    def judges(self, design: Design) -> dict[str, Judge]:
        """What each group is judged by, by its name."""
        names = name_groups(self.by, design.thirds, design.sites)
        parts = zip(names, self.calibrations, self.regions, strict=True)
        return {name: Judge(calibration, regions) for name, calibration, regions in parts}  # type: ignore[arg-type]


class Judging(nn.Module):
    """A network that knows what people are judged by: all alike, or each in a group."""

    calibration: Calibration
    regions: RegionCalibration

    def make_judge(self) -> Judge:
        """Make what a group is judged by, not yet calibrated."""
        raise NotImplementedError

    @property
    def design(self) -> Design | None:
        """How people's age, sex and site enter what is expected of them; None where they do not."""
        raise NotImplementedError

    @property
    def covariates(self) -> tuple[str, ...]:
        """The columns that a table of people must have."""
        return () if self.design is None else self.design.names

    def group_people(self, by: str, sites: Sequence[str] = ()) -> None:
        """Calibrate groups of people apart, one of `GROUPINGS`; by site once the sites are known."""
        if by not in GROUPINGS:
            raise unknown_option("group_by", by, GROUPINGS)
        self.group_by = by
        alone = by == "none" or (by == "site" and not sites)
        self.groups = None if alone else Groups(by, self.make_judge, sites).to(self.calibration.knots.device)

    def find_group(self, person: Mapping[str, Any]) -> str | None:
        """The group that a person is judged in; None for that of all people."""
        return None if self.groups is None or self.design is None else self.groups.find(self.design, person)

    def judge_of(self, group: str | None) -> Judge:
        """What a group is judged by."""
        if group is None or self.groups is None or self.design is None:
            return Judge(self.calibration, self.regions)
        return self.groups.judges(self.design)[group]
