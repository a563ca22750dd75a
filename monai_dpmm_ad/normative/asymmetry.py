# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How much a place differs from the one across the middle, compared with healthy scans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.normative.atlas import Atlas
from monai_dpmm_ad.normative.combination import take_side
from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Lattice, Volume, sample_places
from monai_dpmm_ad.normative.placed import PlacedScan

__all__ = ["Asymmetry"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
Shape = tuple[int, int, int]

_ALIKE = 0.9  # correlation
_FLIP = np.array([-1.0, 1.0, 1.0])  # x runs from left to right


class Asymmetry(nn.Module):
    """Left against right: how far deviations of the intensity differ from those of the mirrored place.

    With d(r) the deviation at a place and r' its mirror image, |d(r) − d(r')| is standardised by what healthy scans
    have there. Both sides of a pair have the same difference; it counts on the side that is the more unusual one by
    itself, on the other one no more than usual. So a lesion casts no shadow across the middle.

    The mirror image of a place is found by registering the reference with itself, mirrored: no plane is assumed.

    Args:
        shape: places along x, y and z at which healthy differences are kept.
        reference_shape: of the reference.
        num_channels: C, the first scales of the intensity: at the coarser one lesions on both sides hide each other.
        weight: of each channel.
    """

    shift: Tensor  # (3, X, Y, Z), mm: from a place with its x turned round to its mirror image, on the reference
    weights: Tensor

    def __init__(
        self,
        shape: Shape,
        reference_shape: Shape,
        num_channels: int = 1,
        weight: float = 0.4,
    ) -> None:
        super().__init__()
        self.sizes = Atlas(shape, num_channels)
        self.register_buffer("shift", torch.zeros(3, *reference_shape, dtype=torch.float16))
        self.register_buffer("weights", torch.full((num_channels,), weight, dtype=torch.float64))

    def set_mirror(self, reference: Volume, find_frame: Callable[[Array, Matrix], Frame]) -> bool:
        """Find the mirror image of each place.

        Args:
            reference: of the cohort.
            find_frame: where a scan lies in it.

        Returns:
            Whether the reference is like its mirror image.
        """
        image = np.where(reference.weight > 0.5, reference.values, 0).astype(np.float32)
        mirrored = find_frame(image, np.diag([*_FLIP, 1.0]) @ reference.lattice.affine)
        flipped = reference.lattice.points() * _FLIP
        shift = np.moveaxis(mirrored.locate(flipped) - flipped, -1, 0)
        self.shift.copy_(torch.from_numpy(shift))
        return mirrored.quality >= _ALIKE  # not where nothing was registered

    def mirror(self, places: Matrix, lattice: Lattice) -> Matrix:
        """Mirror images of places ``(..., 3)`` of the reference (mm), which lies on ``lattice``."""
        index = torch.from_numpy(lattice.index_of(places))
        return places * _FLIP + np.moveaxis(sample_places(self.shift.float(), index).double().numpy(), 0, -1)

    def compare(self, deviations: Array, scan: PlacedScan, frame: Frame, reference: Lattice) -> PlacedScan:
        """Compare a scan with itself, mirrored.

        Args:
            deviations: ``(C or more, X, Y, Z)``, on the scan's lattice.
            scan: placed in the reference.
            frame: of the scan.
            reference: its lattice.

        Returns:
            The scan with differences as channels, this side minus the other one; its weight is 1 where there are both.
        """
        deviations = deviations[: len(self.weights)]
        return self._subtract(deviations, self._look_across(deviations, scan, frame, reference), scan)

    def judge(
        self,
        deviations: Array,
        unusual: Tensor,
        scan: PlacedScan,
        frame: Frame,
        reference: Lattice,
        side: str,
        look_up: Callable[[Tensor, Matrix, Shape], Tensor],
    ) -> Tensor:
        """Standardise a scan's differences, ``(C, X, Y, Z)``, 0 where there is one side alone.

        Args:
            deviations: as for :meth:`compare`, and so the next three.
            unusual: same shape, how unusual they are, standardised.
            scan: see above.
            frame: see above.
            reference: see above.
            side: which deviations count, one of :data:`~monai_dpmm_ad.normative.combination.SIDES`.
            look_up: what an atlas of a shape holds at places (mm).
        """
        deviations, unusual = deviations[: len(self.weights)], unusual[: len(self.weights)]
        across = self._look_across(np.concatenate([deviations, unusual.numpy()]), scan, frame, reference)
        compared = self._subtract(deviations, across[: len(deviations)], scan)
        mean, spread = look_up(torch.cat(self.sizes.moments()), scan.places, self.sizes.shape).chunk(2)
        z = (take_side(torch.from_numpy(compared.channels), side) - mean) / spread
        z = torch.where(unusual > torch.from_numpy(across[len(deviations) :]), z, z.clamp_max(0))
        return torch.where(torch.from_numpy(compared.volume.weight) > 0, z, 0)

    def _look_across(self, channels: Array, scan: PlacedScan, frame: Frame, reference: Lattice) -> Array:
        """Channels ``(C, X, Y, Z)`` of a scan at the mirror images of its points; NaN where it is not."""
        lattice, inside = scan.volume.lattice, (scan.volume.weight > 0.5).astype(np.float32)
        index = torch.from_numpy(lattice.index_of(frame.trace(self.mirror(scan.places, reference))))
        stacked = torch.from_numpy(np.concatenate([channels * inside, inside[None]]))
        *found, share = sample_places(stacked, index).numpy()
        return np.where(share > 0.5, np.stack(found) / np.maximum(share, 0.5), np.nan).astype(np.float32)

    @staticmethod
    def _subtract(deviations: Array, across: Array, scan: PlacedScan) -> PlacedScan:
        both = (scan.volume.weight > 0.5) & np.isfinite(across[0])
        volume = Volume(scan.volume.values, both.astype(np.float32), scan.volume.lattice)
        return PlacedScan(volume, np.where(both, deviations - across, 0).astype(np.float32), scan.places)
