# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A fitted scan as another scanner might have acquired it."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandAdjustContrast, RandBiasField, RandGaussianSmooth, RandRicianNoise
from monai.utils import CommonKeys
from torch import Tensor

from monai_dpmm_ad.data.acquisitions import ACQUISITION, find_original
from monai_dpmm_ad.errors import ScanError, source_of
from monai_dpmm_ad.ops.slices import voxel_sizes
from monai_dpmm_ad.transforms.intensity import scale_foreground

__all__ = ["AcquireScand"]

#: Gamma; the coefficients of the bias field, which is then 27 % darker to 33 % brighter in the mean (1st and 99th
#: percentile of a brain); the largest standard deviation of the noise, in medians.
_GAMMA, _FIELD, _NOISE = (0.7, 1.4), 0.2, 0.08
#: Largest standard deviation of the blur (mm) within axial slices and across: slices of 6 mm have 1.7.
_BLUR, _THICKNESS = 0.8, 1.7


class AcquireScand(MapTransform):
    """Draw contrast, bias field, blur, slice thickness and noise of a scan that an item is a copy of.

    It belongs after the intensities are scaled and before slices are cut. Foreground, grid and place stay as they are,
    and so does the level that intensities are scaled to. What is drawn follows from the seed, the scan's name and the
    number of the copy, so neither order nor processes matter. Other items are left as they are.

    Args:
        intensity: method of :class:`~monai_dpmm_ad.transforms.ScaleIntensityForeground` that the scan is scaled by.
        seed: of all draws.

    Raises:
        ScanError: of CT, whose Hounsfield units mean the same on every scanner.

    Example:
        >>> AcquireScand()({"image": "scan"})  # it is no copy
        {'image': 'scan'}
    """

    def __init__(self, intensity: str = "median", seed: int = 0) -> None:
        super().__init__(keys=CommonKeys.IMAGE)
        self.intensity = intensity
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Acquire the image of a copy of ``data``."""
        out = dict(data)
        if out.pop(ACQUISITION, None) is None:
            return out
        image = out[CommonKeys.IMAGE]
        if image.meta.get("modality") == "CT":
            raise ScanError(source_of(image), "is CT, of which no other acquisition can be drawn; fit without augment")
        name, number = find_original(data), data[ACQUISITION]["number"]
        seed = zlib.crc32(f"{self.seed}\n{name}\n{number}".encode())
        acquired = _acquire(image.as_tensor(), voxel_sizes(image, batched=False).tolist(), seed)
        scaled = scale_foreground(acquired, image.as_tensor() > 0, self.intensity)
        operations = list(image.applied_operations)
        out[CommonKeys.IMAGE] = MetaTensor(scaled, meta=image.meta, applied_operations=operations)
        return out


def _acquire(image: Tensor, sizes: list[float], seed: int) -> Tensor:
    """Change an image ``(1, P, L, I)`` or ``(1, H, W)``, background exactly 0, of voxels of some sizes (mm)."""
    inside = image > 0
    level = float(image[inside].median())
    rows, columns, *across = [(0.0, _BLUR / size) for size in sizes[:2]] + [(0.0, _THICKNESS / s) for s in sizes[2:]]
    contrast, field, blur, noise = (
        RandAdjustContrast(prob=1, gamma=_GAMMA),
        RandBiasField(prob=1, coeff_range=(-_FIELD, _FIELD)),
        RandGaussianSmooth(prob=1, sigma_x=rows, sigma_y=columns, sigma_z=(across or [rows])[0]),
        RandRicianNoise(prob=1, std=_NOISE * level),
    )
    for number, transform in enumerate((contrast, field, blur, noise)):
        transform.set_random_state(seed=(seed + number) % 2**32)
    shaded = torch.as_tensor(field(contrast(image)))
    # What lies outside has no share in the mean, else the rim would darken.
    total, share = torch.as_tensor(blur(torch.cat([torch.where(inside, shaded, 0), inside.float()])))
    blurred = torch.where(inside[0], total / share.clamp_min(1e-3), 0)
    return torch.as_tensor(noise(blurred[None])).as_subclass(Tensor)
