# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Volumes in orientation "PLI" to upright slices, and back.

A preprocessed volume has the dimensions (C, P, L, I): rows run from anterior to posterior, columns from the patient's
right to the left, the third dimension from superior to inferior. Every slice below is then upright as radiologists
show it, by a permutation alone: no flip, no interpolation, hence an exact inverse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option

__all__ = [
    "AUTO",
    "AXES",
    "assemble_slices",
    "blend_slices",
    "check_axes",
    "choose_planes",
    "extract_slices",
    "pixel_aspect",
    "slice_step",
    "thin_slices",
    "voxel_sizes",
]

#: Permutation of (C, P, L, I) that makes (slice, C, rows, columns) of each axis.
AXES: dict[str, tuple[int, int, int, int]] = {
    "axial": (3, 0, 1, 2),
    "coronal": (1, 0, 3, 2),
    "sagittal": (2, 0, 3, 1),
}
#: In place of axes: those along which a volume shows something, see `choose_planes`.
AUTO = "auto"
#: How many times as long as wide pixels of such a slice are at most, and the slice itself.
_LONGEST_PIXEL, _LONGEST_SLICE = 2.0, 3.0

#: What rounding leaves of square pixels must not resize a slice by one pixel.
_NEARLY_SQUARE = 0.02
_ROUNDING = 1e-6


def voxel_sizes(image: Tensor, batched: bool = True) -> Tensor:
    """Return the voxel sizes that an image's affine gives.

    Args:
        image: ``(B, C, *spatial)``, or ``(C, *spatial)``; what carries no affine has voxels of 1 mm.
        batched: whether the first dimension counts images; they share their sizes.

    Returns:
        ``(2,)`` or ``(3,)`` in mm.
    """
    rank = image.ndim - (2 if batched else 1)
    affine = getattr(image, "affine", None)
    if affine is None:
        return torch.ones(rank)
    matrix = torch.as_tensor(affine, dtype=torch.float64).cpu()
    matrix = matrix[0] if matrix.ndim == 3 else matrix
    return torch.linalg.vector_norm(matrix[:3, :rank], dim=0)


def pixel_aspect(sizes: Tensor, axis: str) -> float:
    """Return how many times as high as wide the pixels of an axis's slices are.

    Args:
        sizes: ``(3,)`` voxel sizes along P, L and I, or ``(2,)`` of the rows and columns of a picture, in mm.
        axis: "axial", "coronal" or "sagittal"; a picture has one kind of slice.

    Returns:
        The height divided by the width; 1 where they differ by less than 2 %, or where a size is not positive.

    Example:
        >>> import torch
        >>> pixel_aspect(torch.tensor([1.0, 1.0, 4.0]), "axial"), pixel_aspect(torch.tensor([1.0, 1.0, 4.0]), "coronal")
        (1.0, 4.0)
    """
    rows, columns = (0, 1) if len(sizes) == 2 else (dim - 1 for dim in _permutation(axis)[2:])
    height, width = float(sizes[rows]), float(sizes[columns])
    if not (height > 0 and width > 0 and math.isfinite(height / width)):
        return 1.0
    return 1.0 if abs(height / width - 1) < _NEARLY_SQUARE else height / width


def check_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """Return axes as they may be asked for: some of `AXES`, or `AUTO` alone.

    Raises:
        ValueError: none, one that is unknown or named twice, or `AUTO` beside others.
    """
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    if not names:
        raise ValueError("`axes` must name at least one axis, got none.")
    for name in names:
        if name not in (AUTO, *AXES):
            raise unknown_option("axes", name, (AUTO, *AXES))
    if len(set(names)) < len(names):
        raise ValueError(f"`axes` must name each axis once, got {', '.join(names)}.")
    if AUTO in names and len(names) > 1:
        raise ValueError(f"`axes` must be {AUTO} alone or some of {', '.join(AXES)}, got {', '.join(names)}.")
    return names


def choose_planes(axes: Sequence[str], shape: Sequence[int], sizes: Tensor) -> tuple[tuple[str, ...], int]:
    """Return the axes along which a volume is cut, and how many times fewer slices of each do for a fit.

    Of `AUTO` those whose slices' pixels are at most twice as long as wide, and the slices at most three times: what was
    acquired in thick slices is looked at in their plane alone. Of n such axes each n-th slice does: as many as of one.

    Args:
        axes: as `check_axes` gives them.
        shape: ``(P, L, I)`` of the volume, or ``(H, W)`` of a picture.
        sizes: voxel sizes, in mm, as many.

    Example:
        >>> [choose_planes(["auto"], (180, 140, depth), torch.tensor([1.0, 1.0, 180 / depth])) for depth in (150, 30)]
        [(('axial', 'coronal', 'sagittal'), 3), (('axial',), 1)]
    """
    if tuple(axes) != (AUTO,):
        return tuple(axes), 1
    if len(sizes) == 2 or not bool((sizes.isfinite() & (sizes > 0)).all()):
        return ("axial",), 1
    longest = {}
    for axis in AXES:
        rows, columns = (dim - 1 for dim in _permutation(axis)[2:])
        pixel = float(sizes[rows] / sizes[columns])
        slice_ = pixel * shape[rows] / shape[columns]
        longest[axis] = max(max(pixel, 1 / pixel) / _LONGEST_PIXEL, max(slice_, 1 / slice_) / _LONGEST_SLICE)
    wide = tuple(axis for axis in AXES if longest[axis] <= 1 + _ROUNDING) or (min(AXES, key=longest.__getitem__),)
    return wide, len(wide)


def slice_step(shape: Sequence[int], sizes: Tensor, axis: str, spacing: float | None) -> int:
    """Return how many slices further along an axis the next one is that tells something new.

    Args:
        shape: ``(P, L, I)`` of the volume.
        sizes: ``(3,)`` voxel sizes, in mm.
        axis: "axial", "coronal" or "sagittal".
        spacing: least distance of two slices, as a share of the longer side of a slice; None and 0 take every one.

    Returns:
        The step, 1 or more; 1 where a size is not positive.

    Example:
        >>> import torch
        >>> [slice_step((180, 150, 90), torch.tensor([1.0, 1.0, depth]), "axial", 0.02) for depth in (0.5, 1, 2, 5)]
        [7, 3, 1, 1]
    """
    if not spacing:
        return 1
    across, rows, columns = (_permutation(axis)[dim] - 1 for dim in (0, 2, 3))
    longer, depth = max(shape[dim] * float(sizes[dim]) for dim in (rows, columns)), float(sizes[across])
    steps = spacing * longer / depth if depth > 0 else 1.0
    return max(1, math.floor(steps + _ROUNDING)) if math.isfinite(steps) else 1


def thin_slices(candidates: Sequence[int], step: int) -> list[int]:
    """Take every ``step``-th of slices, so that as many are left out at either end.

    Example:
        >>> thin_slices(range(10, 18), 3)
        [10, 13, 16]
    """
    return list(candidates[(len(candidates) - 1) % step // 2 :: step])


def blend_slices(maps: Tensor, inside: Tensor, distances: Sequence[float], foreground: Tensor) -> Tensor:
    """Map of a slice from those of its neighbours, each with a weight of one over its distance.

    Args:
        maps: ``(k, C, rows, columns)``, of the neighbours.
        inside: same shape, Boolean, their foreground: beyond it their maps say nothing.
        distances: k, of the neighbours from the slice.
        foreground: ``(C, rows, columns)``, Boolean, of the slice itself.

    Returns:
        ``(C, rows, columns)``, 0 outside the foreground; where no neighbour has foreground the mean of what is near.

    Example:
        >>> maps = torch.tensor([[[[1.0, 2.0]]], [[[4.0, 0.0]]]])
        >>> blend_slices(maps, maps > 0, [1, 2], torch.tensor([[[True, True]]]))
        tensor([[[2., 2.]]])
    """
    weights = inside.to(maps) / torch.tensor(distances).to(maps)[:, None, None, None]
    total, weight = (weights * maps).sum(0), weights.sum(0)
    blended = torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0)
    missing, reach = foreground & (weight <= 0), 1
    while bool(missing.any()) and reach < 2 * max(maps.shape[-2:]):
        near, share = (F.avg_pool2d(part[None], 2 * reach + 1, 1, reach)[0] for part in (total, weight))
        found = missing & (share > 0)
        blended = torch.where(found, near / torch.where(found, share, 1), blended)
        missing, reach = missing & ~found, 2 * reach
    return torch.where(foreground, blended, 0)


def extract_slices(volume: Tensor, axis: str) -> Tensor:
    """Take a volume apart into upright slices along an axis.

    Args:
        volume: ``(C, P, L, I)``.
        axis: "axial" (rows P, columns L), "coronal" (rows I, columns L) or "sagittal" (rows I, columns P).

    Returns:
        ``(n, C, rows, columns)``, a view of ``volume``.

    Raises:
        ValueError: when ``axis`` is unknown or ``volume`` has another number of dimensions.

    Example:
        >>> import torch
        >>> extract_slices(torch.zeros(1, 5, 4, 3), "coronal").shape
        torch.Size([5, 1, 3, 4])
    """
    if volume.ndim != 4:
        raise ValueError(
            f"`volume` must have shape (C, P, L, I), got {tuple(volume.shape)}. Add the channel dimension."
        )
    return volume.permute(_permutation(axis))


def assemble_slices(slices: Tensor, axis: str) -> Tensor:
    """Put the slices of ``extract_slices`` together again.

    Args:
        slices: ``(n, C, rows, columns)``, all slices along the axis in order.
        axis: the axis they were taken along.

    Returns:
        ``(C, P, L, I)``, a view of ``slices``.

    Raises:
        ValueError: when ``axis`` is unknown or ``slices`` has another number of dimensions.
    """
    if slices.ndim != 4:
        raise ValueError(f"`slices` must have shape (n, C, rows, columns), got {tuple(slices.shape)}.")
    permutation = _permutation(axis)
    inverse = [permutation.index(dim) for dim in range(4)]
    return slices.permute(inverse)


def _permutation(axis: str) -> tuple[int, int, int, int]:
    if axis not in AXES:
        raise unknown_option("axis", axis, AXES)
    return AXES[axis]
