# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Endless synthetic brain slices: the MNI152 tissue maps with random contrast, shape, bias field, blur and noise.

The tissue maps come with nilearn: brain anatomy in three planes and of any contrast, without a download.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["SyntheticAnatomy"]

_SHARPNESS = 3  # power on the tissue probabilities: an average of many brains is blurred
_LEAST_BRAIN = 0.08  # share of the frame that a slice's brain must fill
_T1_LIKE = 0.3  # share of slices whose tissues keep the order of a T1 image
_MARGIN = 12  # voxels around the brain, room for the deformation


class SyntheticAnatomy:
    """Draw 2D brain slices of random plane, place, tissue contrast and shape.

    Args:
        spacing: voxel size of the maps in mm, 1 or 2.

    Raises:
        ImportError: when nilearn is not installed.
    """

    def __init__(self, spacing: int = 1) -> None:
        try:
            from nilearn import datasets
        except ImportError as error:
            raise ImportError(
                "Synthetic anatomy needs nilearn, which carries the MNI152 maps. "
                "Run: pip install nilearn, or give `num_synthetic` as 0."
            ) from error
        loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
        arrays = [np.asarray(load(resolution=spacing).dataobj, dtype=np.float32).clip(min=0) for load in loaders]
        t1, grey, white = arrays
        brain = ndimage.binary_fill_holes(ndimage.binary_opening(t1 > 0.05))
        parts = np.stack([grey, white, np.clip(1 - grey - white, 0, 1)]) ** _SHARPNESS
        parts *= brain / np.maximum(parts.sum(0), 1e-6)
        means = (parts * t1).sum((1, 2, 3)) / parts.sum((1, 2, 3))
        texture = (t1 - np.einsum("cxyz,c->xyz", parts, means)) * brain
        box = [np.flatnonzero(brain.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        crop = tuple(slice(v[0], v[-1] + 1) for v in box)
        maps = np.concatenate([parts, texture[None]])[(slice(None), *crop)]
        # RAS to PLI: rows run to posterior, columns to left, slices to inferior, as the package's preprocessing does.
        self._maps = np.ascontiguousarray(maps.transpose(0, 2, 1, 3)[:, ::-1, ::-1, ::-1]).astype(np.float32)

    def slices(self, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
        """Yield slices without end.

        Args:
            rng: source of randomness.

        Yields:
            ``(H, W)`` intensities, background exactly 0.
        """
        while True:
            maps = self._draw_plane(rng)
            if (maps[:3].sum(0) > 0.5).mean() < _LEAST_BRAIN:
                continue
            maps = _deform(np.pad(maps, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))), rng)
            yield _acquire(maps, _draw_contrast(rng), rng)

    def _draw_plane(self, rng: np.random.Generator) -> NDArray[np.float32]:
        axis = int(rng.choice([0, 1, 2], p=[0.25, 0.25, 0.5]))
        index = int(rng.integers(round(0.08 * self._maps.shape[1 + axis]), round(0.92 * self._maps.shape[1 + axis])))
        plane: NDArray[np.float32] = np.take(self._maps, index, axis=1 + axis)
        # Coronal and sagittal slices have inferior-superior along the rows: (I, L) and (I, P).
        return plane if axis == 2 else plane.transpose(0, 2, 1)


def _draw_contrast(rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Intensities of grey matter, white matter and fluid, and the factor on the template's texture."""
    if rng.random() < _T1_LIKE:
        return np.array([rng.uniform(0.6, 0.8), 1.0, rng.uniform(0.15, 0.4)]), float(rng.uniform(0.5, 1.2))
    tissues = np.array([rng.uniform(0.45, 1.0), rng.uniform(0.45, 1.0), rng.uniform(0.08, 1.6)])
    return tissues, float(rng.uniform(-0.6, 0.8))


def _deform(maps: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Bend ``(C, H, W)`` maps smoothly, with a small rotation and change of aspect."""
    height, width = maps.shape[1:]
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    centre = np.array([height - 1, width - 1])[:, None, None] / 2
    points = np.stack([rows, columns]) - centre
    angle, (scale_y, scale_x) = rng.normal(0, 0.06), np.exp(rng.normal(0, 0.05, 2))
    turned = np.stack(
        [
            scale_y * (np.cos(angle) * points[0] - np.sin(angle) * points[1]),
            scale_x * (np.sin(angle) * points[0] + np.cos(angle) * points[1]),
        ]
    )
    knots = rng.normal(0, 1, (2, 9, 9)) * rng.uniform(1, 4)
    bend = np.stack([ndimage.zoom(k, (height / 9, width / 9), order=3)[:height, :width] for k in knots])
    where = turned + centre + bend
    return np.stack([ndimage.map_coordinates(channel, where, order=1) for channel in maps])


def _acquire(
    maps: NDArray[np.float32], contrast: tuple[NDArray[np.float64], float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Give the tissues their intensities, then shade, blur and add noise as a scanner does."""
    tissues, texture = contrast
    brain = maps[:3].sum(0) > 0.5
    image = np.einsum("chw,c->hw", maps[:3], tissues) + texture * maps[3]
    shade = ndimage.zoom(rng.normal(0, 0.06, (4, 4)), np.array(image.shape) / 4, order=3)
    image = image * np.exp(shade[: image.shape[0], : image.shape[1]])
    image = ndimage.gaussian_filter(image, rng.uniform(0.2, 1.0))
    noise = rng.uniform(0.005, 0.03)
    image = np.hypot(image + rng.normal(0, noise, image.shape), rng.normal(0, noise, image.shape))
    return np.where(brain, np.maximum(image, 1e-3), 0).astype(np.float32)
