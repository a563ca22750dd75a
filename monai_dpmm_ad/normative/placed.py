# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A scan on its own lattice, what atlases say of it there, and how it comes to voxels and to the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.normative.lattice import Lattice, Volume, index_voxels, sample_places

__all__ = ["JudgedScan", "PlacedScan", "pull_channels"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PlacedScan:
    """A scan on its own lattice: smoothed intensities ``(C, X, Y, Z)``, and its points' places in the reference."""

    volume: Volume
    channels: NDArray[np.float32]
    places: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class JudgedScan:
    """Mean and spread of the detector's score and standardised intensities ``(2 + C, X, Y, Z)`` on a scan's lattice."""

    channels: Tensor
    lattice: Lattice

    def standardize(self, anomaly_map: NDArray[np.float32], affine: NDArray[np.float64]) -> list[Tensor]:
        """Standardised channels at the voxels of the detector's map, or of a part of it that has its own affine."""
        voxels = index_voxels(anomaly_map.shape, affine, self.lattice)
        mean, spread, *intensities = sample_places(self.channels, voxels)
        return [(torch.from_numpy(anomaly_map) - mean) / spread, *intensities]


def pull_channels(channels: Array, volume: Volume, points: NDArray[np.float64]) -> tuple[Array, Array]:
    """Channels ``(C, X, Y, Z)`` of a scan at other points ``(..., 3)`` (mm), and the share of foreground there."""
    index = torch.from_numpy(volume.lattice.index_of(points))
    weight = torch.from_numpy(np.pad(volume.weight, 1))[None]  # beyond the scan there is no foreground
    return sample_places(torch.from_numpy(channels), index).numpy(), sample_places(weight, index + 1)[0].numpy()
