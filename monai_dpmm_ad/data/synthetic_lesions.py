# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Random lesions with exact masks, put into phantoms or into real slices. Knows NumPy and SciPy only.

Not to be confused with `monai_dpmm_ad.handlers.regions`, the table of flagged regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["insert_lesion_2d", "insert_lesions"]

_RIM_MM = 3.0  # least distance of a lesion's centre from the brain's rim, beside 40 % of the lesion's diameter


def insert_lesion_2d(
    image: NDArray[Any],
    foreground: NDArray[Any],
    rng: np.random.Generator,
    *,
    diameter: tuple[float, float] = (0.02, 0.12),
    contrast: tuple[float, float] = (0.25, 0.6),
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Put one smooth random blob, brighter or darker than its surroundings, into a slice.

    Args:
        image: ``(H, W)``, any non-negative intensities. A bright lesion may exceed the image's maximum.
        foreground: ``(H, W)``, nonzero where the head or organ is; the lesion stays inside it, away from its rim.
        rng: source of randomness.
        diameter: range of the lesion's diameter as a share of the foreground's larger side; drawn log-uniformly.
        contrast: range of the intensity change as a share of the intensity around; its sign is random, but what is
            already dark only gets brighter.

    Returns:
        The image ``(H, W)`` with the lesion, float32, and its mask ``(H, W)``, never empty.

    Raises:
        ValueError: when the shapes differ or the foreground is empty.
    """
    tissue = _check_pair(image, foreground, ndim=2)
    extent = max(np.ptp(axis) + 1 for axis in np.nonzero(tissue))
    out = image.astype(np.float32)
    depth = _depth(tissue, (1.0, 1.0))
    lesion_diameter = float(np.exp(rng.uniform(*np.log(diameter)))) * float(extent)
    typical = float(np.median(out[tissue]))
    usual = tissue & (out > 0.5 * typical) & (out < 2 * typical)  # neither fluid nor skull
    centre = _sample_centre(depth, usual if usual.any() else tissue, 0.02 * float(extent) + 0.4 * lesion_diameter, rng)
    change = rng.choice([-1.0, 1.0]) * rng.uniform(*contrast)
    mask = _add_blob(out, tissue, centre, lesion_diameter / 2, change, (1.0, 1.0), rng)
    return out, mask


def insert_lesions(
    volume: NDArray[Any],
    tissue: NDArray[Any],
    spacing: Sequence[float],
    rng: np.random.Generator,
    *,
    count: tuple[int, int] = (1, 4),
    diameter: tuple[float, float] = (3.0, 20.0),
    contrast: tuple[float, float] = (0.25, 0.6),
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Put several smooth random blobs into a volume, away from the brain's rim and from each other.

    Args:
        volume: ``(X, Y, Z)``, any non-negative intensities.
        tissue: ``(X, Y, Z)``, nonzero where a lesion may be; its holes (ventricles) do not count as a rim.
        spacing: voxel size along the three axes in mm.
        rng: source of randomness.
        count: least and greatest number of lesions, both included. Fewer result where there is no more room.
        diameter: range of the diameters in mm; drawn log-uniformly, the first from the larger half of the range, so
            that no subject is abnormal by a speck alone.
        contrast: as in `insert_lesion_2d`, but brighter and darker lesions alternate, from a random start.

    Returns:
        The volume ``(X, Y, Z)`` with the lesions, float32, and their joint mask ``(X, Y, Z)``, never empty.

    Raises:
        ValueError: when the shapes differ, the tissue is empty, ``spacing`` is not three positive numbers or
            ``count`` is no range from 1 on.
    """
    allowed = _check_pair(volume, tissue, ndim=3)
    step = tuple(float(value) for value in spacing)
    if len(step) != 3 or not all(value > 0 for value in step):
        raise ValueError(f"`spacing` must be three positive numbers, got {step}. Give the voxel size in mm.")
    if not 1 <= count[0] <= count[1]:
        raise ValueError(f"`count` must be two increasing numbers from 1 on, got {count}. Give (least, greatest).")
    out, mask = volume.astype(np.float32), np.zeros(volume.shape, dtype=bool)
    depth = _depth(allowed, step)
    smallest, largest = np.log(diameter)
    first_sign = rng.choice([-1.0, 1.0])
    for index in range(int(rng.integers(count[0], count[1] + 1))):
        least = smallest if index else (smallest + largest) / 2
        lesion_diameter = float(np.exp(rng.uniform(least, largest)))
        change = first_sign * (-1) ** index * rng.uniform(*contrast)
        centre = _sample_centre(depth, allowed, _RIM_MM + 0.4 * lesion_diameter, rng)
        mask |= _add_blob(out, allowed, centre, lesion_diameter / 2, change, step, rng)
        # The next centre keeps clear of this lesion: its surroundings count as a rim from now on.
        depth = np.minimum(depth, ndimage.distance_transform_edt(~mask, sampling=step) - _RIM_MM)
        if depth[allowed].max() <= 0:
            break
    return out, mask


def _check_pair(image: NDArray[Any], region: NDArray[Any], ndim: int) -> NDArray[np.bool_]:
    if image.ndim != ndim or image.shape != region.shape:
        raise ValueError(
            f"`image` and its region must be {ndim}D arrays of one shape, got {image.shape} and {region.shape}. "
            "Give the region on the image's own grid."
        )
    allowed = region != 0
    if not allowed.any():
        raise ValueError("The region must not be empty, got no nonzero element. Choose a slice that shows tissue.")
    return allowed


def _depth(tissue: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance in mm from the outer rim, specks left out, sulci and inner holes closed; 0 outside."""
    padding = 4  # closing erodes from the array's border otherwise
    opened = ndimage.binary_opening(tissue)
    closed = ndimage.binary_closing(np.pad(opened if opened.any() else tissue, padding), iterations=2)
    closed = closed[(slice(padding, -padding),) * tissue.ndim]
    return ndimage.distance_transform_edt(ndimage.binary_fill_holes(closed), sampling=spacing)


def _sample_centre(
    depth: NDArray[np.float64], allowed: NDArray[np.bool_], wanted: float, rng: np.random.Generator
) -> tuple[int, ...]:
    """Sample an allowed element at least ``wanted`` deep, or one of the deepest where there is none."""
    inside = np.where(allowed, depth, -np.inf)
    candidates = np.flatnonzero(inside >= min(wanted, 0.9 * float(inside.max())))
    return tuple(int(i) for i in np.unravel_index(rng.choice(candidates), depth.shape))


def _add_blob(
    image: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    centre: tuple[int, ...],
    radius: float,
    change: float,
    spacing: tuple[float, ...],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Add a blob to ``image`` in place and return its mask."""
    reach = [int(np.ceil(2.5 * radius / step)) + 1 for step in spacing]
    window = tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(centre, reach, strict=True))
    ranges = [
        (np.arange(n)[part] - c) * step for n, part, c, step in zip(image.shape, window, centre, spacing, strict=True)
    ]
    field, texture = _blob_field(np.stack(np.meshgrid(*ranges, indexing="ij"), -1) / radius, rng)
    edge = max(0.2 * radius, 0.5 * min(spacing)) / radius
    soft = np.clip(0.5 + (1 - field) / edge, 0, 1) * allowed[window]
    parts, _ = ndimage.label(soft >= 0.5, structure=np.ones((3,) * image.ndim))
    region = parts == parts[tuple(c - part.start for c, part in zip(centre, window, strict=True))]
    soft[(parts > 0) & ~region] = 0  # what a sulcus cuts off is left out: one lesion, one component
    local, typical = float(image[window][region].mean()), float(np.median(image[allowed]))
    amount = change * local if local >= 0.6 * typical else abs(change) * 0.6 * typical
    changed = image[window] + amount * soft * (1 + 0.2 * texture)
    # A darkened voxel stays above zero, which means background.
    image[window] = np.where(soft > 0, np.maximum(changed, np.minimum(image[window], 0.05 * typical)), image[window])
    mask = np.zeros(image.shape, dtype=bool)
    mask[window] = region
    return mask


def _blob_field(points: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Level function (below 1 inside the blob, 0 at its centre) and a texture of unit variance at ``points``.

    The blob is a turned ellipsoid of about unit volume whose radius varies with direction: star-shaped, so connected.
    """
    ndim, waves = points.shape[-1], 6
    turn, _ = np.linalg.qr(rng.normal(size=(ndim, ndim)))
    axes = np.exp(rng.uniform(-0.35, 0.35, ndim))
    local = points @ turn / (axes / axes.prod() ** (1 / ndim))
    directions = rng.normal(size=(2, ndim, waves))
    directions *= rng.uniform(1.5, 4.5, (2, 1, waves)) / np.linalg.norm(directions, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, (2, waves))
    length = np.linalg.norm(local, axis=-1)
    unit = local / np.maximum(length, 1e-6)[..., None]
    shape, texture = (
        np.cos(at @ direction + phase).sum(-1) / np.sqrt(waves / 2)
        for at, direction, phase in zip((unit, local), directions, phases, strict=True)
    )
    return length * (1 + np.clip(0.25 * shape, -0.5, 0.5)), texture
