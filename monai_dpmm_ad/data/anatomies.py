# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Believable anatomies from the template's tissue maps: shape, ventricles, sulci and cortex differ between subjects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

__all__ = ["draw_anatomy"]

_ROTATION, _SCALE, _SHIFT_MM = 0.06, 0.04, 2.0  # standard deviations
# Smoothness and size of the random displacement in mm: the brain's shape, and single gyri.
_WAVES = ((18.0, 3.0), (6.0, 1.6))
_VENTRICLE_REACH_MM = 26.0  # about the ventricles' centre
_VENTRICLE_GROWTH = (-0.2, 0.5)  # in diameter, from young to old
_LEAST_PROBABILITY = 1e-3


def draw_anatomy(
    maps: NDArray[np.float32], spacing: float, step: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw one subject's tissue maps.

    One latent "age" widens ventricles and sulci and thins the cortex together, each with a spread of its own. What is
    fluid or grey is decided by shifting the log odds of the template's probabilities, which moves the boundaries of
    sulci and cortex as no deformation does.

    Args:
        maps: ``(4, X, Y, Z)`` grey matter, white matter, fluid, texture of the template.
        spacing: its voxel size in mm.
        step: voxel size of the result in mm; its first voxel lies where the template's first one does.
        rng: source of randomness.

    Returns:
        ``(4, X', Y', Z')``
    """
    age = float(rng.uniform(-1, 1))
    voxels = np.array(maps.shape[1:])
    shape = tuple(int(size) for size in np.round((voxels - 1) * spacing / np.array(step)).astype(int) + 1)
    places = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, step, strict=True)], indexing="ij"))
    places = _turn(places, (voxels - 1) * spacing / 2, rng)
    places += sum(_draw_wave(shape, step, smooth, size, rng) for smooth, size in _WAVES)
    places = _grow(places, _find_ventricles(maps, spacing), age, rng)
    grid = 2 * places / spacing / (voxels - 1)[:, None, None, None] - 1
    where = torch.from_numpy(grid[::-1].transpose(1, 2, 3, 0).astype(np.float32))
    found = F.grid_sample(torch.from_numpy(maps)[None], where[None], mode="bilinear", align_corners=True)[0].numpy()
    shifts = np.array([-0.3 * age, 0.0, 0.9 * age]) + rng.normal(0, 0.25, 3)
    odds = np.maximum(found[:3], _LEAST_PROBABILITY) * np.exp(shifts)[:, None, None, None]
    brain = found[:3].sum(0)
    return np.concatenate([odds / odds.sum(0) * brain, found[3:]]).astype(np.float32)


def _turn(places: NDArray[np.float64], centre: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Turn, stretch and shift places ``(3, …)`` in mm about a centre."""
    angles = rng.normal(0, _ROTATION, 3)
    skew = np.array([[0, -angles[2], angles[1]], [angles[2], 0, -angles[0]], [-angles[1], angles[0], 0]])
    matrix = (np.eye(3) + skew) * np.exp(rng.normal(0, _SCALE, 3))
    middle = centre[:, None, None, None]
    shift = rng.normal(0, _SHIFT_MM, 3)[:, None, None, None]
    return np.einsum("ij,jxyz->ixyz", matrix, places - middle) + middle + shift


def _draw_wave(
    shape: tuple[int, ...], step: tuple[float, ...], smooth: float, size: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A smooth random displacement ``(3, …)`` of root mean square ``size`` mm along each axis."""
    wave = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), [smooth / s for s in step]) for _ in range(3)])
    return wave * (size * rng.uniform(0.7, 1.3) / wave.std())


def _find_ventricles(maps: NDArray[np.float32], spacing: float) -> NDArray[np.float64]:
    """Centre in mm of the fluid that lies deep in the brain."""
    depth = ndimage.distance_transform_edt(maps[:3].sum(0) > 0.5, sampling=spacing)
    deep = maps[2] * (depth > 0.5 * depth.max())
    return np.array(ndimage.center_of_mass(deep)) * spacing


def _grow(
    places: NDArray[np.float64], centre: NDArray[np.float64], age: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Widen or narrow what lies about a centre, less and less with the distance."""
    low, high = _VENTRICLE_GROWTH
    growth = low + (high - low) * (age + 1) / 2 + rng.normal(0, 0.08, 3)
    offset = places - centre[:, None, None, None]
    near = np.exp(-0.5 * (offset**2).sum(0) / _VENTRICLE_REACH_MM**2)
    # What is shown at a place is taken from nearer to the centre where things grow.
    return places - (growth / (1 + growth))[:, None, None, None] * near * offset
