# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a map to levels of severity, by the p-values of its regions or by three thresholds for its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.handlers.regions import Regions
from monai_dpmm_ad.normative import RegionCalibration

__all__ = [
    "FACTORS",
    "LEVEL_NAMES",
    "Level",
    "RegionLevel",
    "compute_levels",
    "compute_region_levels",
    "draw_levels",
    "draw_region_levels",
]

#: Level 1 is the requested false-positive rate, levels 2 and 3 are a tenth and a hundredth of it.
FACTORS = (1.0, 0.1, 0.01)
#: Level 1 holds all flagged regions, levels 2 and 3 those with at most these p-values.
REGION_P_VALUES = (1.0, 0.05, 0.01)
LEVEL_NAMES = {f"anomaly_level_{number}": number for number in range(1, len(FACTORS) + 1)}


@dataclass(frozen=True)
class Level:
    """One level of severity.

    Args:
        level: its value in the label map.
        rate: share of healthy foreground voxels that reach it.
        threshold: a voxel reaches the level when its score is greater.
        guaranteed: whether enough held-out healthy scans were seen to promise the rate.
    """

    level: int
    rate: float
    threshold: float
    guaranteed: bool


@dataclass(frozen=True)
class RegionLevel:
    """One level of severity of whole regions.

    Args:
        level: its value in the label map.
        p_value: a flagged region reaches the level when its p-value is not greater.
        guaranteed: whether enough held-out healthy scans were seen for such a p-value.
    """

    level: int
    p_value: float
    guaranteed: bool


def compute_region_levels(calibration: RegionCalibration) -> list[RegionLevel]:
    """List the levels of regions, by falling p-value.

    Args:
        calibration: of the bundle, fitted.
    """
    least = 1 / (int(calibration.num_scans) + 1)
    return [
        RegionLevel(number, p_value, bool(calibration.held_out) and least <= p_value)
        for number, p_value in enumerate(REGION_P_VALUES, start=1)
    ]


def draw_region_levels(regions: Regions, shape: tuple[int, ...], levels: Sequence[RegionLevel]) -> NDArray[np.uint8]:
    """Give every voxel of a region the highest level that its p-value reaches.

    Args:
        regions: with p-values.
        shape: of the map.
        levels: by falling p-value.

    Returns:
        0 outside the regions.
    """
    reached = [
        sum(region.p_value is not None and region.p_value <= level.p_value for level in levels)
        for region in regions.listed
    ]
    drawn = np.zeros(shape, np.uint8)
    drawn[regions.box] = np.array([0, *reached], np.uint8)[regions.labels]
    return drawn


def compute_levels(calibration: Calibration, rate: float) -> list[Level]:
    """Look up the thresholds.

    Args:
        calibration: of the bundle, fitted.
        rate: false-positive rate of level 1, in (0, 1).

    Returns:
        Levels 1, 2, …, by rising threshold.
    """
    rates = [rate * factor for factor in FACTORS]
    return [
        Level(number, level_rate, float(calibration.threshold(level_rate)), calibration.guaranteed(level_rate))
        for number, level_rate in enumerate(rates, start=1)
    ]


def draw_levels(score_map: np.ndarray, thresholds: Sequence[float | np.ndarray]) -> np.ndarray:
    """Count for each voxel how many thresholds it exceeds.

    Args:
        score_map: any shape.
        thresholds: rising; each a number, or one for each voxel, same shape.

    Returns:
        uint8, same shape: 0 below all of them.
    """
    levels = np.zeros(score_map.shape, np.uint8)
    for threshold in thresholds:
        levels += score_map > np.asarray(threshold, np.float32)
    return levels
