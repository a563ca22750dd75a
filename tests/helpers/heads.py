# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small asymmetric "heads" for tests of registration."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE = (34, 40, 30)
#: Finer: at half the resolution a skull must still be seen.
FINE, SPACING = (50, 60, 46), 3.5
AFFINE = np.diag([SPACING] * 3 + [1.0])
AFFINE[:3, 3] = -SPACING * (np.array(FINE) - 1) / 2


def make_head(shape: tuple[int, int, int] = SHAPE, noise: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """An ellipsoid with an off-centre bright and a dark part, background 0; about 5 mm voxels make a head of it."""
    points = np.stack(np.meshgrid(*[np.linspace(-1.15, 1.15, size) for size in shape], indexing="ij"), -1)
    image = np.where((points**2).sum(-1) < 1, 1.0, 0.0)
    image += 0.6 * image * np.exp(-(((points - [0.4, 0.3, -0.2]) / [0.25, 0.35, 0.3]) ** 2).sum(-1))
    image -= 0.6 * image * np.exp(-(((points - [-0.3, -0.5, 0.3]) / [0.3, 0.2, 0.25]) ** 2).sum(-1))
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1)
    return np.maximum(image + noise * rough * (image > 0), 0).astype(np.float32)


def affine_of(spacing: float = 5.0) -> NDArray[np.float64]:
    """Scanner coordinates of such a head, its centre near 0."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -spacing * (np.array(SHAPE) - 1) / 2
    return affine


def put_into_skull(
    brain: NDArray[np.float32], affine: NDArray[np.float64], angles: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """A head around a brain of cubic voxels, turned by some degrees: a dark skull, a bright scalp and a neck.

    Returns:
        The head, the brain in it, both on one grid of the brain's voxels, and its affine.
    """
    room = 12
    padded = np.pad(brain, room)
    spacing = float(affine[0, 0])
    away = ndimage.distance_transform_edt(padded == 0) * spacing
    head = np.where(away > 0, np.where(away < 12, 0.15, np.where(away < 28, 1.4, 0.0)), padded)
    neck = np.indices(head.shape)
    beside = np.hypot(neck[0] - head.shape[0] / 2, neck[1] - head.shape[1] / 2) * spacing
    head = np.where((away >= 28) & (beside < 45) & (neck[2] < room), 0.8, head)
    turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    middle = (np.array(head.shape) - 1) / 2
    shift = middle - turned @ middle
    head, inside = (
        ndimage.affine_transform(part.astype(np.float32), turned, shift, order=1, mode="nearest")
        for part in (head, padded)
    )
    moved = affine.copy()
    moved[:3, 3] -= room * spacing
    return np.where(head > 0.05, head, 0), np.where(inside > 0.3, inside, 0), moved


def write_brains(folder: Path, count: int) -> list[Path]:
    """Brains of several people, as files."""
    folder.mkdir()
    paths = [folder / f"brain{number}.nii.gz" for number in range(count)]
    for number, path in enumerate(paths):
        nib.save(nib.Nifti1Image(300 * make_head(FINE, noise=0.1, seed=number), AFFINE), path)
    return paths


def make_twins(seed: int = 7) -> dict[str, nib.Nifti1Image]:
    """A ``head`` with a lesion, and its ``brain`` alone, on one grid."""
    brain = make_head(FINE, noise=0.1, seed=seed)
    brain[20:26, 26:33, 28:34] *= 1.7
    head, brain, affine = put_into_skull(brain, AFFINE, (4.0, -3.0, 6.0))
    return {name: nib.Nifti1Image(300 * values, affine) for name, values in (("head", head), ("brain", brain))}
