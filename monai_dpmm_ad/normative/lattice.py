# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Volumes on a lattice along the scanner's axes: what scans of any size, spacing and orientation are brought to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["Lattice", "Volume", "average_points", "index_voxels", "move_start", "resample", "sample_places", "to_itk"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Lattice:
    """A regular lattice of points along the axes of a space.

    Args:
        shape: points along x, y and z.
        spacing: between them, in mm, the same along all axes.
        origin: x, y, z of the first point, in mm.
    """

    shape: tuple[int, int, int]
    spacing: float
    origin: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """From indices to mm, ``(4, 4)``."""
        affine = np.diag([self.spacing] * 3 + [1.0])
        affine[:3, 3] = self.origin
        return affine

    def points(self) -> NDArray[np.float64]:
        """Coordinates of all points, ``(X, Y, Z, 3)``, in mm."""
        axes = [start + self.spacing * np.arange(size) for start, size in zip(self.origin, self.shape, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1)

    def index_of(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Indices, not rounded, of points ``(..., 3)`` in mm."""
        return np.asarray((points - np.array(self.origin)) / self.spacing, dtype=np.float64)

    @classmethod
    def indices(cls, shape: tuple[int, ...]) -> Lattice:
        """An image's own indices as places."""
        return cls((shape[0], shape[1], shape[2]), 1.0, (0.0, 0.0, 0.0))

    @classmethod
    def around(cls, low: NDArray[np.float64], high: NDArray[np.float64], spacing: float) -> Lattice:
        """The lattice whose cells, centred on its points, cover a box from ``low`` to ``high`` (mm)."""
        shape = np.maximum(np.ceil((high - low) / spacing - 1e-6), 1).astype(int)
        first = (low + high) / 2 - (shape - 1) / 2 * spacing
        x, y, z = (float(value) for value in first)
        return cls((int(shape[0]), int(shape[1]), int(shape[2])), spacing, (x, y, z))


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on a lattice.

    Args:
        values: of the lattice's shape; averages over what of a cell is foreground.
        weight: share of each cell that is foreground, in [0, 1].
        lattice: where the values lie.
    """

    values: Array
    weight: Array
    lattice: Lattice


def resample(image: Array, affine: NDArray[np.float64], spacing: float, margin: float = 0.0) -> Volume:
    """Bring an image to a lattice along the scanner's axes.

    Args:
        image: ``(X, Y, Z)``, background exactly 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm); may turn, flip and shear.
        spacing: of the lattice, in mm.
        margin: empty space around the image, in mm.
    """
    half = np.array(image.shape)[None] * np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T - 0.5
    corners = half @ affine[:3, :3].T + affine[:3, 3]
    lattice = Lattice.around(corners.min(0) - margin, corners.max(0) + margin, spacing)
    voxel = np.sqrt((affine[:3, :3] ** 2).sum(0))
    # The mean over a lattice cell, nearly: what is finer than the lattice must not alias.
    width = [max(1, round(spacing / float(size))) for size in voxel]
    index = np.linalg.inv(affine) @ lattice.affine
    centre = index[:3, 3] + [0.5 * (size % 2 == 0) for size in width]  # an even window lies half a voxel lower

    def bring(values: Array) -> Array:
        for axis, size in enumerate(width):
            if size > 1:
                values = ndimage.uniform_filter1d(values, size, axis, mode="constant")
        return ndimage.affine_transform(values, index[:3, :3], centre, output_shape=lattice.shape, order=1)

    weight = bring((image > 0).astype(np.float32))
    total = bring(image.astype(np.float32, copy=False))
    values = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3)
    return Volume(values, np.clip(weight, 0, 1), lattice)


def sample_places(volume: Tensor, indices: Tensor) -> Tensor:
    """Interpolate linearly between places; beyond the lattice the nearest place counts.

    Args:
        volume: ``(C, X, Y, Z)``.
        indices: ``(..., 3)``, positions in places along x, y and z.

    Returns:
        ``(C, ...)``.
    """
    sizes = volume.new_tensor(volume.shape[1:])
    unit = torch.addcmul(1 / sizes - 1, indices.to(volume), 2 / sizes)
    grid = unit.flip(-1).reshape(1, -1, 1, 1, 3)
    found = F.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.view(volume.shape[0], *indices.shape[:-1])


def average_points(points: NDArray[np.float64], values: Array, lattice: Lattice) -> tuple[Array, Array]:
    """Average scattered values over the cells of a lattice.

    Args:
        points: ``(n, 3)``, mm.
        values: ``(n,)``.
        lattice: points beyond it are left out.

    Returns:
        The means ``(X, Y, Z)``, 0 where there is none, and 1 where there is one.
    """
    index = np.rint(lattice.index_of(points)).astype(int)
    inside = ((index >= 0) & (index < np.array(lattice.shape))).all(1)
    place = np.ravel_multi_index(tuple(index[inside].T), lattice.shape)
    count, total = (np.bincount(place, weight, int(np.prod(lattice.shape))) for weight in (None, values[inside]))
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return mean.reshape(lattice.shape).astype(np.float32), np.minimum(count, 1).reshape(lattice.shape).astype(
        np.float32
    )


def move_start(affine: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """The affine of what is left of an image without its first ``start`` elements along the first axis."""
    moved = affine.copy()
    moved[:3, 3] += start * affine[:3, 0]
    return moved


def index_voxels(shape: tuple[int, ...], affine: NDArray[np.float64], lattice: Lattice) -> Tensor:
    """Where the voxels of an image lie on a lattice, ``(X, Y, Z, 3)``."""
    to_lattice = np.linalg.inv(lattice.affine) @ affine
    axes = [to_lattice[:3, axis] * np.arange(size).reshape(-1, *[1] * (3 - axis)) for axis, size in enumerate(shape)]
    return torch.from_numpy((axes[0] + axes[1] + axes[2] + to_lattice[:3, 3]).astype(np.float32))


def to_itk(values: NDArray[Any], lattice: Lattice) -> SimpleITK.Image:
    """What lies on a lattice ``(X, Y, Z)``, as SimpleITK has it."""
    import SimpleITK as sitk

    image: Any = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    image.SetSpacing([lattice.spacing] * 3)
    image.SetOrigin(lattice.origin)
    return image
