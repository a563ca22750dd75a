# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From standardised channels to one map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option

__all__ = ["REGION_THRESHOLD", "SIDES", "combine", "surprise", "take_side", "weigh_channels"]

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
