# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Bring a scan's foreground to a common intensity scale by something that lesions cannot move."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scipy import ndimage
from torch import Tensor

from monai_dpmm_ad.errors import naming_scan, unknown_option
from monai_dpmm_ad.transforms.facts import describe_scan, sample_inside
from monai_dpmm_ad.transforms.foreground import compute_foreground
from monai_dpmm_ad.transforms.sequences import scale_each
from monai_dpmm_ad.transforms.skull import take_skull_away

if TYPE_CHECKING:
    from monai_dpmm_ad.transforms.place import HasNormative

__all__ = [
    "CT_WINDOWS",
    "FOREGROUND_FLOOR",
    "INTENSITY_METHODS",
    "ScaleIntensityForeground",
    "ScaleIntensityForegroundd",
    "find_levels",
    "scale_foreground",
]

#: The least value of a foreground voxel after scaling. The background is exactly 0, so ``image > 0`` is the mask.
FOREGROUND_FLOOR = 1e-3

#: Centre and width (HU) of the windows that radiologists use, by kind of CT.
CT_WINDOWS = {
    "ct_brain": (40.0, 80.0),
    "ct_subdural": (75.0, 215.0),
    "ct_soft_tissue": (50.0, 400.0),
    "ct_lung": (-600.0, 1500.0),
    "ct_bone": (600.0, 2800.0),
}
INTENSITY_METHODS = ("median", "white_matter", "percentile", "ct_window", *CT_WINDOWS)

_BINS = 256
#: A whole number in the background that marks what is not there, and how far it lies below the foreground's least
#: value, in distances from there to its median.
_CODE, _FAR = -100.0, 2.0


def scale_foreground(
    image: Tensor,
    mask: Tensor,
    method: str = "median",
    target: float = 1 / 3,
    percentiles: tuple[float, float] = (1.0, 99.5),
    center: float = 40.0,
    width: float = 80.0,
) -> Tensor:
    """Scale an image's foreground to [FOREGROUND_FLOOR, 1] and set its background to 0.

    With x₀ the level of the background (the median outside the mask; where more than 1 % of the foreground is darker,
    as in scans standardised inside a mask, the foreground's least value, 0 at most where the background is one whole
    number far below, as where -1000 marks what was cut away): "median" maps the foreground's median m to
    ``target``, y = target · (x - x₀) / (m - x₀); "white_matter" does so with the mode of the brightest large peak of
    the histogram (white matter in T1, the main tissue peak elsewhere) in the place of m; "percentile" maps the two
    percentiles of the foreground to 0 and 1; "ct_window" maps ``center ± width / 2`` to 0 and 1; "ct_brain",
    "ct_subdural", "ct_soft_tissue", "ct_lung" and "ct_bone" do so with the usual window (``CT_WINDOWS``).

    A lesion that fills a share s of the foreground moves the median by at most s / 2 in rank and the mode hardly at
    all, but the percentiles by as much as it is bright: use "percentile" only where that does not matter.

    Args:
        image: ``(1, *spatial)``, any intensities, finite.
        mask: the foreground, boolean, of the same shape.
        method: "median", "white_matter", "percentile", "ct_window" or one of ``CT_WINDOWS``.
        target: what the median or mode becomes, in (0, 1).
        percentiles: lower and upper percentile, in percent.
        center: centre of the CT window (HU).
        width: width of the CT window (HU).

    Returns:
        float32, of the image's shape.

    Raises:
        ValueError: when the mask is empty, the foreground is constant, or ``method`` is unknown.
    """
    zero, one = find_levels(image, mask, method, target, percentiles, center, width)
    return _scale_between(image, mask, zero, one)


def _scale_between(image: Tensor, mask: Tensor, zero: float, one: float) -> Tensor:
    scaled = (image.float() - zero).div_(one - zero).clamp_(FOREGROUND_FLOOR, 1.0)
    return scaled.masked_fill_(~mask, 0)


def find_levels(
    image: Tensor,
    mask: Tensor,
    method: str = "median",
    target: float = 1 / 3,
    percentiles: tuple[float, float] = (1.0, 99.5),
    center: float = 40.0,
    width: float = 80.0,
) -> tuple[float, float]:
    """Find the intensities that become 0 and 1; arguments as for :func:`scale_foreground`."""
    if image.shape != mask.shape:
        raise ValueError(f"`mask` must have the image's shape {tuple(image.shape)}, got {tuple(mask.shape)}.")
    # NumPy looks up Booleans some twenty times as fast as torch.
    values = torch.from_numpy(image.cpu().numpy()[mask.cpu().numpy()]).float()
    if not values.numel():
        raise ValueError("the foreground is empty")
    low, high = (float(value) for value in torch.aminmax(values))
    if low == high:
        raise ValueError(f"the foreground is constant: every voxel in it is {low:g}")
    if method in ("median", "white_matter"):
        zero = _background_level(image, mask, values)
        level = float(values.median()) if method == "median" else _brightest_mode(values)
        # A foreground that is mostly background by value has no median above it: its own range is all there is.
        one = zero + (level - zero) / target if level > zero else high
    elif method == "percentile":
        zero, one = _quantiles(values, percentiles[0] / 100, percentiles[1] / 100)
        zero, one = (zero, one) if one > zero else (low, high)
    elif method == "ct_window" or method in CT_WINDOWS:
        center, width = CT_WINDOWS.get(method, (center, width))
        zero, one = center - width / 2, center + width / 2
    else:
        raise unknown_option("method", method, INTENSITY_METHODS)
    return zero, one


def _quantiles(values: Tensor, *shares: float) -> tuple[float, ...]:
    # torch.quantile refuses more than 2**24 values.
    return tuple(float(value) for value in np.quantile(values.cpu().numpy(), shares))


def _background_level(image: Tensor, mask: Tensor, values: Tensor) -> float:
    background = sample_inside(image, ~mask)
    (lowest,) = _quantiles(values, 0.01)
    if not len(background):
        return min(0.0, lowest)
    outside = float(background.float().median())
    if outside > lowest:  # standardised inside a mask: what was black is the least of the foreground
        return float(values.min())
    low, high = _quantiles(background.float(), 0.05, 0.95)
    is_code = low == high <= _CODE and outside.is_integer()
    if is_code and lowest - outside > _FAR * (float(values.median()) - lowest):
        return min(0.0, float(values.min()))  # for "nothing here", such as -1000: no level of intensity
    return outside


def _brightest_mode(values: Tensor) -> float:
    """Return the mode of the brightest peak that is at least half as high as the highest one."""
    lower, upper = _quantiles(values, 0.25, 0.75)
    spread = upper - lower
    if spread <= 0:
        return float(values.median())
    # Bins between the fences of a box plot: a lesion, however bright, makes them no wider.
    fences = (lower - 1.5 * spread, upper + 1.5 * spread)
    counts, edges = np.histogram(values.cpu().numpy(), bins=_BINS, range=fences)
    smooth = ndimage.gaussian_filter1d(counts.astype(float), _BINS / 64, mode="constant")
    inner = smooth[1:-1]
    is_peak = (inner >= smooth[:-2]) & (inner > smooth[2:]) & (inner >= 0.5 * smooth.max())
    peak = 1 + (np.flatnonzero(is_peak)[-1] if is_peak.any() else int(inner.argmax()))
    return float(edges[peak] + edges[peak + 1]) / 2


class ScaleIntensityForeground(Transform):
    """Find an image's foreground, scale it, and set the background to exactly 0; see ``scale_foreground``.

    Args:
        method: "median", "white_matter", "percentile", "ct_window" or one of ``CT_WINDOWS``.
        target: what the median or white-matter mode becomes.
        percentiles: for "percentile", in percent of the foreground.
        center: centre of the CT window (HU).
        width: width of the CT window (HU).

    Example:
        >>> image = torch.zeros(1, 16, 16)
        >>> image[0, 4:12, 4:12] = torch.arange(100, 164).reshape(8, 8).float()
        >>> scaled = ScaleIntensityForeground()(image)
        >>> round(float(scaled[scaled > 0].median()), 3)
        0.333
    """

    def __init__(
        self,
        method: str = "median",
        target: float = 1 / 3,
        percentiles: tuple[float, float] = (1.0, 99.5),
        center: float = 40.0,
        width: float = 80.0,
    ) -> None:
        if method not in INTENSITY_METHODS:
            raise unknown_option("method", method, INTENSITY_METHODS)
        if not FOREGROUND_FLOOR < target < 1:
            raise ValueError(f"`target` must lie in ({FOREGROUND_FLOOR}, 1), got {target}.")
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(f"`percentiles` must be two rising numbers in [0, 100], got {tuple(percentiles)}.")
        if not width > 0:
            raise ValueError(f"`width` must be positive, got {width}. Give it in Hounsfield units.")
        self.method = method
        self.target = target
        self.percentiles = (percentiles[0], percentiles[1])
        self.center = center
        self.width = width

    def __call__(self, img: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scale an image.

        Args:
            img: ``(1, *spatial)``.
            mask: its foreground, where that is known; else it is computed.

        Returns:
            float32 with the image's meta data and transform history.

        Raises:
            ScanError: when the image or its foreground is constant or empty, naming the image's file.
        """
        plain = img.as_tensor() if isinstance(img, MetaTensor) else img
        with naming_scan(img):
            if mask is None:
                mask = compute_foreground(plain)
            inside = (mask.as_tensor() if isinstance(mask, MetaTensor) else mask) > 0
            levels = find_levels(plain, inside, self.method, self.target, self.percentiles, self.center, self.width)
        scaled = _scale_between(plain, inside, *levels)
        if isinstance(img, MetaTensor):
            told = {"facts": describe_scan(img, inside), "levels": levels}
            # As text, which collating leaves.
            meta = {**img.meta, **{key: json.dumps(value) for key, value in told.items()}}
            return MetaTensor(scaled, meta=meta, applied_operations=list(img.applied_operations))
        return scaled


class ScaleIntensityForegroundd(MapTransform):
    """Dictionary version of ``ScaleIntensityForeground``.

    Args:
        keys: images to scale.
        mask_key: key of a foreground mask to use instead of computing one; an item without it has one computed.
        method: see ``ScaleIntensityForeground``.
        target: see ``ScaleIntensityForeground``.
        percentiles: see ``ScaleIntensityForeground``.
        center: see ``ScaleIntensityForeground``.
        width: see ``ScaleIntensityForeground``.
        allow_missing_keys: skip keys that an item lacks.
        network: where brains were fitted the brain alone is the foreground of a whole head, see
            :func:`~monai_dpmm_ad.transforms.skull.take_skull_away`; None keeps the skull.

    Example:
        >>> import torch
        >>> image = torch.zeros(1, 8, 8, 8)
        >>> image[:, 2:6, 2:6, 2:6] = torch.linspace(90, 110, 64).reshape(4, 4, 4)
        >>> scaled = ScaleIntensityForegroundd()({"image": image})["image"]
        >>> round(scaled[scaled > 0].median().item(), 1), scaled[0, 0, 0, 0].item()
        (0.3, 0.0)
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        mask_key: str | None = None,
        method: str = "median",
        target: float = 1 / 3,
        percentiles: tuple[float, float] = (1.0, 99.5),
        center: float = 40.0,
        width: float = 80.0,
        allow_missing_keys: bool = False,
        network: HasNormative | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.network = network
        self.scaler = ScaleIntensityForeground(method, target, percentiles, center, width)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images of a copy of ``data``."""
        item = dict(data)
        mask = item.get(self.mask_key) if self.mask_key is not None else None
        for key in self.key_iterator(item):
            image, item[key] = item[key], scale_each(self.scaler, item[key], mask)
            if self.network is not None and mask is None:
                item[key] = take_skull_away(image, item[key], self.network, self.scaler)
        return item
