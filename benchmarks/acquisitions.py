# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Other scanners, simulated: what `benchmarks/shift.py` does to a head of 2 mm before the detector sees it.

Strengths are fixed: an acquisition is a protocol, so the same for all heads but for what differs from visit to visit
(bias field, noise, pose). Contrast comes first, then the field, then the head is sampled on another grid, then noise.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from normative_cohort import VENTRICLES
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

GAMMA, TISSUE_SPREAD, FLUID = 0.7, 0.08, 1.3
FIELD = 0.4
NOISE = 0.08
THICKNESS, IN_PLANE = 5.0, 0.9
COARSE = 3.0
TILT = (14.0, 6.0, 8.0)  # degrees about x, y and z


@dataclass(frozen=True)
class Head:
    """A head on its own grid.

    Args:
        values: ``(X, Y, Z)`` intensities, 0 in the background.
        truth: where it was changed.
        labels: of its anatomy, 0 outside the brain.
        affine: ``(4, 4)``, from indices to scanner coordinates (mm).
    """

    values: NDArray[np.float32]
    truth: NDArray[np.bool_]
    labels: NDArray[np.int16]
    affine: NDArray[np.float64]


def change_contrast(head: Head, rng: np.random.Generator) -> Head:
    """Less contrast, and an intensity of its own for each structure, fluid brighter than before."""
    del rng  # the protocol is the same for all heads
    factors = np.exp(TISSUE_SPREAD * np.random.default_rng(21).standard_normal(int(head.labels.max()) + 1))
    factors[0] = 1
    factors[[label for label in VENTRICLES if label < len(factors)]] = FLUID
    smooth = ndimage.gaussian_filter(factors[head.labels].astype(np.float32), 0.7)
    median = np.median(head.values[head.values > 0])
    return replace(head, values=median * (head.values * smooth / median) ** np.float32(GAMMA))


def add_field(head: Head, rng: np.random.Generator) -> Head:
    """A smooth field, a quadratic of random direction whose logarithm spans twice `FIELD`."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in head.values.shape), indexing="ij", sparse=True)
    weights = rng.standard_normal((2, 3))
    log = sum(a * axis + b * axis**2 for (a, b), axis in zip(weights.T, axes, strict=True))
    inside = head.values > 0
    low, high = np.quantile(log[inside], [0.01, 0.99])
    return replace(head, values=head.values * np.exp(FIELD * (2 * (log - low) / (high - low) - 1)).astype(np.float32))


def add_noise(head: Head, rng: np.random.Generator) -> Head:
    """Rician noise; the background of a brain that was cut out stays empty."""
    inside = head.values > 0
    sigma = NOISE * float(np.median(head.values[inside]))
    real, imaginary = (rng.normal(0, sigma, head.values.shape).astype(np.float32) for _ in range(2))
    return replace(head, values=np.where(inside, np.hypot(head.values + real, imaginary), 0))


def take_thick_slices(head: Head, rng: np.random.Generator) -> Head:
    """Axial slices of 5 mm, 0.9 mm in the plane."""
    del rng
    return _sample(head, (IN_PLANE, IN_PLANE, THICKNESS), np.eye(3))


def resample_coarsely(head: Head, rng: np.random.Generator) -> Head:
    """Voxels of 3 mm."""
    del rng
    return _sample(head, (COARSE,) * 3, np.eye(3))


def turn(head: Head, rng: np.random.Generator) -> Head:
    """The head lies otherwise in the scanner, by about `TILT` and either way, and the file has other axes."""
    return _sample(head, (2.0, 2.0, 2.0), _draw_pose(rng))


def do_all(head: Head, rng: np.random.Generator) -> Head:
    """All of it: contrast, field, pose, thick slices, noise."""
    changed = add_field(change_contrast(head, rng), rng)
    return add_noise(_sample(changed, (IN_PLANE, IN_PLANE, THICKNESS), _draw_pose(rng)), rng)


#: Name → what is done; those whose name begins with ``skull`` begin with the whole head.
ACQUISITIONS: dict[str, Callable[[Head, np.random.Generator], Head]] = {
    "none": lambda head, rng: head,
    "thick": take_thick_slices,
    "contrast": change_contrast,
    "bias": add_field,
    "noise": add_noise,
    "coarse": resample_coarsely,
    "turned": turn,
    "skull": lambda head, rng: head,
    "all": do_all,
    "skull, all": do_all,
}


def acquire(head: Head, acquisition: str, name: str) -> Head:
    """Simulate one of `ACQUISITIONS`; what is random follows from the head's name."""
    return ACQUISITIONS[acquisition](head, np.random.default_rng([21, zlib.crc32(f"{acquisition} {name}".encode())]))


def _draw_pose(rng: np.random.Generator) -> NDArray[np.float64]:
    return Rotation.from_euler("xyz", np.array(TILT) * rng.choice([-1, 1], 3), degrees=True).as_matrix()


def _sample(head: Head, spacing: tuple[float, float, float], pose: NDArray[np.float64]) -> Head:
    """Sample a head that is turned by ``pose`` about its middle, as left, anterior and superior slices.

    Voxels larger than the head's own are averages over their size; smaller ones are interpolated.
    """
    size = np.sqrt((head.affine[:3, :3] ** 2).sum(0))
    corners = np.array(list(itertools.product((0, 1), repeat=3))) * (np.array(head.values.shape) - 1)
    points = corners @ head.affine[:3, :3].T + head.affine[:3, 3]
    middle = points.mean(0)
    half = np.abs(points - middle).max(0) + 8
    steps = [max(1, int(np.ceil(s / m - 0.5))) for s, m in zip(spacing, size[[2, 0, 1]], strict=True)]
    fine = np.array(spacing) / steps
    shape = [int(np.ceil(2 * h / s)) * n for h, s, n in zip(half, spacing, steps, strict=True)]
    grid = np.diag([-fine[0], fine[1], fine[2], 1.0])
    grid[:3, 3] = middle - grid[:3, :3] @ ((np.array(shape) - 1) / 2)
    turned = np.eye(4)
    turned[:3, :3] = pose
    turned[:3, 3] = middle - pose @ middle
    index = np.linalg.inv(head.affine) @ turned @ grid

    def pull(volume: NDArray[np.float32], order: int) -> NDArray[np.float32]:
        values = ndimage.affine_transform(volume, index[:3, :3], index[:3, 3], output_shape=shape, order=order)
        blocks = values.reshape([n for s, m in zip(shape, steps, strict=True) for n in (s // m, m)])
        return blocks.mean((1, 3, 5)) if order else blocks[:, steps[0] // 2, :, steps[1] // 2, :, steps[2] // 2]

    affine = grid @ np.diag([*map(float, steps), 1.0])
    affine[:3, 3] = grid[:3, 3] + grid[:3, :3] @ ((np.array(steps) - 1) / 2)
    share = pull((head.values > 0).astype(np.float32), 1)
    values = np.where(share > 0.5, pull(head.values, 1) / np.maximum(share, 0.5), 0)
    truth = pull(head.truth.astype(np.float32), 1) > 0.5
    return Head(values.astype(np.float32), truth, pull(head.labels.astype(np.float32), 0).astype(np.int16), affine)
