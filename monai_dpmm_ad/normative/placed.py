# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A scan on its own lattice, what atlases say of it there, and how it comes to voxels and to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.normative.combination import combine
from monai_dpmm_ad.normative.lattice import Lattice, Volume, index_voxels, move_start, sample_places
from monai_dpmm_ad.ops.slabs import slab_bounds

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

    def standardize(self, scores: Array, voxels: Tensor) -> list[Tensor]:
        """Standardised channels where the detector has scores ``(...)``: at ``(..., 3)``, in places of the lattice."""
        mean, spread, *intensities = sample_places(self.channels, voxels)
        return [(torch.from_numpy(scores) - mean) / spread, *intensities]

    def finish(self, anomaly_map: Array, image: Array, affine: NDArray[np.float64], weights: Sequence[float]) -> Array:
        """Combine all channels by weight, ``(X, Y, Z)``, 0 in the background; see `NormativeMap.forward`."""
        finished = np.zeros_like(image)
        for slab in slab_bounds(image.shape):
            inside = image[slab] > 0
            voxels = index_voxels(inside.shape, move_start(affine, slab.start), self.lattice)[torch.from_numpy(inside)]
            channels = self.standardize(anomaly_map[slab][inside], voxels)
            finished[slab][inside] = combine(channels, weights[: len(channels)]).numpy()
        return finished


def pull_channels(channels: Array, volume: Volume, points: NDArray[np.float64]) -> tuple[Array, Array]:
    """Channels ``(C, X, Y, Z)`` of a scan at other points ``(..., 3)`` (mm), and the share of foreground there."""
    index = torch.from_numpy(volume.lattice.index_of(points))
    weight = torch.from_numpy(np.pad(volume.weight, 1))[None]  # beyond the scan there is no foreground
    return sample_places(torch.from_numpy(channels), index).numpy(), sample_places(weight, index + 1)[0].numpy()
