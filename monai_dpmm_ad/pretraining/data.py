# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The slices to pre-train on: preprocessed once as the package does it for fitting, then kept in memory as bytes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.errors import ScanError, find_scan_error
from monai_dpmm_ad.pretraining.batch import Batch
from monai_dpmm_ad.pretraining.recipe import Recipe
from monai_dpmm_ad.transforms.pipeline import preprocess_slices
from monai_dpmm_ad.utils.progress import track

__all__ = ["Paths", "SlicePool", "join_pools", "load_slices", "make_pool"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_AXES = ("axial", "coronal", "sagittal")
_LEAST_FOREGROUND = 0.3  # of the largest slice's along the same axis


@dataclass(frozen=True)
class SlicePool:
    """Slices in memory.

    Args:
        pixels: ``(N, S, S)`` uint8, 0 is background; each slice lies at the upper left.
        frames: ``(N, 2)`` int64, height and width of the slice within the square.
        clean: ``(N,)`` boolean, whether the slice is taken to show no lesion.
        shares: ``(N,)`` float64, how often each slice is drawn, relative to the others.
    """

    pixels: NDArray[np.uint8]
    frames: NDArray[np.int64]
    clean: NDArray[np.bool_]
    shares: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.pixels)

    def draw(self, count: int, generator: Generator) -> Batch:
        """Draw slices with replacement: one group, seen twice in the same contrast.

        Args:
            count: how many.
            generator: source of randomness; its device is where the slices go.
        """
        edges = np.cumsum(self.shares)
        spots = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()
        index = np.minimum(np.searchsorted(edges, spots * edges[-1], side="right"), len(self) - 1)
        device = generator.device
        images = torch.from_numpy(self.pixels[index])[:, None].to(device).float() / 255
        frames = torch.from_numpy(self.frames[index]).to(device).float()
        clean = torch.from_numpy(self.clean[index]).to(device)
        groups = torch.zeros(count, dtype=torch.long, device=device)
        return Batch(images, images, frames, clean, groups, torch.zeros_like(clean))


def load_slices(paths: Paths, image_size: int, clean: bool, intensity: str) -> tuple[SlicePool, list[ScanError]]:
    """Read pictures, and slices in three planes of volumes; where a scan has a mask, slices that it marks are left out.

    Args:
        paths: as ``resolve_datalist`` takes them.
        image_size: longer side of the slices in pixels.
        clean: whether the slices are taken to show no lesion.
        intensity: see ``ScaleIntensityForeground``.

    Returns:
        The slices, and why each scan that could not be used was left out.

    Raises:
        ScanError: when a path leads nowhere.
        ValueError: when no scan can be used.
    """
    items = resolve_datalist(paths, pattern="*")  # a backbone may learn from every kind of image
    chain = preprocess_slices(intensity, _AXES, min_foreground=_LEAST_FOREGROUND, exclude="slices")
    slices: list[NDArray[np.uint8]] = []
    failures: list[ScanError] = []
    for item in track(items, len(items), "read"):
        try:
            samples = chain({key: item[key] for key in ("image", "label", "name") if key in item})
        except (ValueError, RuntimeError, OSError) as error:
            failures.append(find_scan_error(error) or ScanError(item["image"], str(error).splitlines()[0]))
            continue
        slices += [_to_bytes(torch.as_tensor(sample["image"]), image_size) for sample in samples]
    if not slices:
        reasons = "; ".join(str(failure) for failure in failures[:3])
        raise ValueError(f"`images` must hold at least one usable scan, got {len(items)}, all refused: {reasons}.")
    return _make_pool(slices, image_size, clean), failures


def make_pool(images: Paths, recipe: Recipe, mixed: Paths = ()) -> SlicePool:
    """Read all slices that a pre-training draws from; arguments as for ``pretrain``.

    Scans that cannot be used are left out with a warning each.

    Raises:
        ValueError: when there are fewer slices than a batch.
    """
    pools: list[tuple[SlicePool, float]] = []
    if _given(mixed) and recipe.mixed_share:
        pools.append((_load(mixed, recipe, clean=False), recipe.mixed_share))
    if _given(images):
        pools.append((_load(images, recipe, clean=True), 1 - recipe.mixed_share))
    count = sum(len(pool) for pool, _ in pools)
    if count < recipe.batch_size:
        raise ValueError(
            f"`images` must give at least a batch of {recipe.batch_size} slices, got {count}. "
            "Give more images or make `batch_size` smaller."
        )
    return join_pools(pools)


def join_pools(pools: Iterable[tuple[SlicePool, float]]) -> SlicePool:
    """Join pools; the number beside each is the share of draws that falls to it."""
    parts = [(pool, share) for pool, share in pools if len(pool)]
    return SlicePool(
        np.concatenate([pool.pixels for pool, _ in parts]),
        np.concatenate([pool.frames for pool, _ in parts]),
        np.concatenate([pool.clean for pool, _ in parts]),
        np.concatenate([pool.shares / pool.shares.sum() * share for pool, share in parts]),
    )


def _make_pool(slices: list[NDArray[np.uint8]], image_size: int, clean: bool) -> SlicePool:
    pixels = np.zeros((len(slices), image_size, image_size), dtype=np.uint8)
    for square, plane in zip(pixels, slices, strict=True):
        square[: plane.shape[0], : plane.shape[1]] = plane
    frames = np.array([plane.shape for plane in slices], dtype=np.int64)
    return SlicePool(pixels, frames, np.full(len(slices), clean), np.ones(len(slices)))


def _to_bytes(image: Tensor, image_size: int) -> NDArray[np.uint8]:
    """Resize ``(1, H, W)`` in [0, 1] so that its longer side is ``image_size``; foreground stays above 0."""
    scale = image_size / max(image.shape[-2:])
    shape = [max(1, round(side * scale)) for side in image.shape[-2:]]
    pixels = F.interpolate(image[None].float(), shape, mode="bilinear", antialias=True)[0, 0]
    inside = F.interpolate((image[None] > 0).float(), shape, mode="bilinear", antialias=True)[0, 0] > 0.5
    return torch.where(inside, (255 * pixels).round().clamp(1, 255), 0.0).to(torch.uint8).numpy()


def _load(paths: Paths, recipe: Recipe, clean: bool) -> SlicePool:
    """Read slices, and warn of the scans that had to be left out."""
    pool, failures = load_slices(paths, recipe.image_size, clean, recipe.intensity)
    for failure in failures:
        warnings.warn(f"left out: {failure}", stacklevel=2)
    return pool


def _given(paths: Paths) -> bool:
    return isinstance(paths, (str, os.PathLike)) or len(paths) > 0
