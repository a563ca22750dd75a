# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From standardised channels to one map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.ops.slices import AUTO, choose_planes

__all__ = ["REGION_THRESHOLD", "SIDES", "combine", "surprise", "take_side", "weigh_channels", "weigh_scan"]

#: Which deviations of intensity count.
SIDES = ("both", "bright", "dark", "off")

#: Where regions of a finished map begin, whatever the cohort: the channels of a healthy voxel add up to 1 in the mean.
#: At 4 the same implants are found, but drawn too wide; at 8 some of the small ones are not drawn any more.
REGION_THRESHOLD = 6.0

_LOWEST = -8.0


def take_side(deviation: Tensor, side: str) -> Tensor:
    """Turn signed deviations of intensity into what counts: their size, or the bright or the dark side alone."""
    if side not in SIDES or side == "off":
        raise unknown_option("side", side, SIDES[:-1])
    return {"both": deviation.abs(), "bright": deviation, "dark": -deviation}[side]


def surprise(z: Tensor) -> Tensor:
    """−log₁₀ of the tail probability of a standard normal deviate: 0.3 at 0, 2.9 at 3, about z²/4.6 far out.

    Positive and strictly increasing down to z = −8, so that what is least unusual still ranks above the background's 0.

    Args:
        z: any shape.
    """
    return -torch.special.log_ndtr(-z.clamp_min(_LOWEST)) / math.log(10)


def weigh_channels(planes: int) -> tuple[float, float, float]:
    """Weights of the detector and of the intensity at the finer and the coarser scale.

    Chosen on the part *choose* of ``benchmarks/normative.py``, for one plane and for three.

    Args:
        planes: how many the detector's map is the mean of.
    """
    return (1.25 if planes == 1 else 1.75), 0.7, 0.5


def weigh_scan(weights: Sequence[float], shape: Sequence[int], affine: NDArray[np.float64]) -> list[float]:
    """Weights of a scan: the detector's is no more than a map in the planes of such a scan is worth.

    Args:
        weights: of the fitted scans, the detector's first.
        shape: ``(X, Y, Z)`` of the scan.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm).
    """
    planes, _ = choose_planes((AUTO,), shape, torch.from_numpy(np.linalg.norm(affine[:3, :3], axis=0)))
    return [min(weights[0], weigh_channels(len(planes))[0]), *weights[1:]]


def combine(channels: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Add up the surprise of standardised channels: Σ_c w_c · surprise(z_c).

    Args:
        channels: one tensor for each channel, all of one shape.
        weights: one for each channel.

    Returns:
        Same shape, positive.
    """
    total = torch.zeros_like(channels[0])
    for channel, weight in zip(channels, weights, strict=True):
        total += weight * surprise(channel)
    return total
