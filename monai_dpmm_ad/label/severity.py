# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a map to levels of severity: three thresholds, each calibrated on healthy scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.ops.components import label_components

__all__ = ["FACTORS", "LEVEL_NAMES", "Level", "compute_levels", "draw_levels", "remove_small"]

#: Level 1 is the requested false-positive rate, levels 2 and 3 are a tenth and a hundredth of it.
FACTORS = (1.0, 0.1, 0.01)
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


def remove_small(levels: np.ndarray, voxel_size: float, min_size: float) -> np.ndarray:
    """Set connected components (of all levels together) that are smaller than a lesion must be to 0.

    Args:
        levels: (H, W) or (H, W, D), 0 = background.
        voxel_size: of a voxel, in mm³; 1 for a picture.
        min_size: least size that stays, in mm³; in pixels for a picture.
    """
    if min_size <= 0:
        return levels
    labels, number, box = label_components(levels > 0)
    kept = np.bincount(labels.ravel(), minlength=number + 1) * voxel_size >= min_size
    cleaned = levels.copy()
    cleaned[box] *= kept[labels]
    return cleaned
