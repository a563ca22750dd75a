# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Find the head, brain or body in a scan, whatever made the background: air, skull stripping, JPEG or a CT table."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

__all__ = ["compute_foreground"]

_AIR_TISSUE_MIDPOINT = -500.0  # HU
_LARGEST_SIDE = 96  # voxels: where the threshold and the rough shape are found


def compute_foreground(image: Tensor, min_share: float = 0.1) -> Tensor:
    """Compute the mask of what is not background.

    The threshold lies between the level of the background and that of the tissue, both found on a smoothed copy of at
    most 96 voxels a side. Of the voxels above it the largest connected parts are kept, and what they enclose, in the
    volume or in any axial slice (the last dimension), belongs to them: ventricles, sinuses, lungs. CT is told by its
    air at -1000 HU and split at -500 HU; what is thin there, a head holder or table, is left out. Where a scan was
    standardised inside a mask, its background is one value in the middle of the others, and everything else is
    foreground.

    Args:
        image: ``(1, H, W)`` or ``(1, H, W, D)``, any intensities, finite.
        min_share: keep connected parts of at least this share of the largest one's size.

    Returns:
        Boolean, of the image's shape. Not empty.

    Raises:
        ValueError: when ``image`` has another shape or is constant.

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> image[0, 2:6, 2:6] = 1.0
        >>> int(compute_foreground(image).sum())
        16
    """
    if image.ndim not in (3, 4) or image.shape[0] != 1:
        raise ValueError(f"`image` must have shape (1, H, W) or (1, H, W, D), got {tuple(image.shape)}.")
    array = image.detach().cpu().numpy()[0].astype(np.float32, copy=False)
    if array.size == 0 or array.min() == array.max():
        raise ValueError("`image` must not be constant. A scan without contrast has no foreground.")
    level = _level_inside(array)
    if level is not None:
        array = (array != level).astype(np.float32)
    steps = tuple(max(1, -(-size // _LARGEST_SIDE)) for size in array.shape)
    coarse = array[tuple(slice(None, None, step) for step in steps)]
    smooth = ndimage.gaussian_filter(coarse, 0.7)
    threshold = _threshold(coarse)
    is_ct = threshold == _AIR_TISSUE_MIDPOINT
    body = _without_thin_parts(smooth > threshold) if is_ct else smooth > threshold
    rough = _solid(body, min_share)
    if not is_ct and _is_box(rough):
        rough, threshold = _look_into_box(smooth, threshold, min_share)
    mask = _refine(array, rough, steps, threshold, min_share) if rough.any() else np.zeros(array.shape, dtype=bool)
    if not mask.any():  # the object is a few voxels, lost in the coarse copy
        mask = _largest(array > 0.5 * (array.min() + array.max()), min_share)
    return torch.from_numpy(mask)[None].to(image.device)


def _threshold(array: np.ndarray) -> float:
    """Return the intensity that parts background from tissue, a tenth of the way up."""
    low, high = (float(value) for value in np.quantile(array, [0.005, 0.995]))
    if -5000 <= low <= -900 and high > -200:
        return _AIR_TISSUE_MIDPOINT
    values, counts = np.unique(array, return_counts=True)
    level = float(values[counts.argmax()])
    above = array[array > level]
    if above.size and counts.max() > 0.1 * array.size and level <= np.quantile(array, 0.3):
        low = level  # a background of one value: skull-stripped or padded
        high = float(np.quantile(above, 0.9))
        tissue = np.count_nonzero(array > low + 0.1 * (high - low))
        if above.size - tissue < 0.1 * tissue:
            return low + 0.01 * (high - low)  # nothing dim around the tissue: the dark fluid in it is worth keeping
    # A foreground of a few voxels only, or a single bright one, leaves no range between the quantiles.
    return low + 0.1 * (high - low) if high > low else 0.5 * (float(array.min()) + float(array.max()))


def _level_inside(array: np.ndarray) -> float | None:
    """Return the background's value where it is one value and lies well inside the range of the others, else None.

    Such are scans that were standardised inside a mask, with 0 outside. A few darker voxels are another matter:
    interpolation leaves those at the rim of a stripped brain.
    """
    values, counts = np.unique(
        array[tuple(slice(None, None, max(1, size // 64)) for size in array.shape)], return_counts=True
    )
    level = values[counts.argmax()]
    if counts.max() < 0.1 * counts.sum():
        return None
    below, above = array[array < level], array[array > level]
    if min(below.size, above.size) < 0.1 * (below.size + above.size):
        return None
    depth, height = float(level - np.median(below)), float(np.median(above) - level)
    return float(level) if min(depth, height) > 0.1 * max(depth, height) else None


def _without_thin_parts(mask: np.ndarray) -> np.ndarray:
    """Take away what is thin beside the thickest part, in the plane of the slices: holders, tables and blankets.

    A part counts as thin where no disc of a fifth of the largest one's radius fits into it; one that touches the body
    is cut off where it is thin, unless it is as small as an ear.
    """
    depth = _depth_in_plane(mask)
    radius = float(depth.max(initial=0.0))
    if radius < 5.0:  # too coarse to tell
        return mask
    labels, count = ndimage.label(mask)
    thickest = ndimage.maximum(depth, labels, np.arange(1, count + 1)) if count else np.zeros(0)
    kept = mask & np.concatenate([[False], np.asarray(thickest) >= 0.2 * radius])[labels]
    core = kept & (depth > 0.12 * radius)
    near = _depth_in_plane(~core) <= 0.12 * radius + 1.5
    thin, number = ndimage.label(kept & ~near)
    if number:
        sizes = np.bincount(thin.ravel())
        sizes[0] = 0
        kept &= ~(sizes > 0.02 * kept.sum())[thin]
    return kept


def _depth_in_plane(mask: np.ndarray) -> np.ndarray:
    """Distance of each voxel of a mask to what is outside it, in its own axial slice, in pixels."""
    if mask.ndim == 2:
        return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]
    return np.stack([_depth_in_plane(mask[..., index]) for index in range(mask.shape[-1])], axis=-1)


def _is_box(mask: np.ndarray) -> bool:
    """Tell whether a mask fills the rim of its own bounding box, in the plane of the slices: noise does, a head not."""
    if not mask.any():
        return False
    inside = ndimage.binary_dilation(mask[_bounding_box(mask)], _in_plane(mask.ndim))  # noise is full of gaps
    rim = _rim(inside)
    return bool(rim.any() and inside[rim].mean() > 0.55)


def _rim(mask: np.ndarray) -> np.ndarray:
    """The outermost three rows and columns; of a slab, which the head runs through, only those along its plane."""
    rim = np.zeros(mask.shape, dtype=bool)
    for dim, other in ((0, 1), (1, 0)):
        if mask.shape[dim] >= max(7, mask.shape[other] // 2):
            edge = np.moveaxis(rim, dim, 0)
            edge[:3] = edge[-3:] = True
    return rim


def _open(mask: np.ndarray) -> np.ndarray:
    """Take away what is thinner than three pixels, but nothing at the picture's edge."""
    square = np.ones((3, 3), dtype=bool)
    return ndimage.binary_dilation(ndimage.binary_erosion(mask, square, border_value=1), square) & mask


def _in_plane(ndim: int) -> np.ndarray:
    structure = ndimage.generate_binary_structure(ndim, 1)
    if ndim == 3:
        structure[1, 1, [0, 2]] = False
    return structure


def _look_into_box(smooth: np.ndarray, threshold: float, min_share: float) -> tuple[np.ndarray, float]:
    """Find the head in a mask that is a box: behind a frame drawn around the picture, or above a noisy background.

    Noise is known by a rim that is even and well below the tissue; an uneven or bright rim is tissue that fills the
    field of view, and the box is right.

    Args:
        smooth: the coarse image.
        threshold: what made a box of it.
        min_share: see ``compute_foreground``.

    Returns:
        The coarse mask and the threshold that it is drawn with.
    """
    box = _bounding_box(_largest(smooth > threshold, min_share))
    rim = np.zeros(smooth.shape, dtype=bool)
    rim[box] = _rim(smooth[box])
    if not rim.any():
        return _solid(smooth > threshold, min_share), threshold
    level = float(np.median(smooth[rim]))
    above = level + 4.0 * 1.4826 * float(np.median(np.abs(smooth[rim] - level)))
    if threshold < above < 0.5 * (threshold + float(np.quantile(smooth[box], 0.9))):
        threshold = above
    mask = smooth > threshold
    rough = _solid(mask, min_share)
    if _is_box(rough):
        inside = _solid(mask & ~rim, min_share)
        if inside.any() and not _is_box(inside):
            # What lost its edge with the frame, because it reaches the rim too, gets it back.
            rough = _solid(
                ndimage.binary_dilation(inside, _in_plane(mask.ndim), iterations=3) & mask | inside, min_share
            )
    return rough, threshold


def _solid(mask: np.ndarray, min_share: float) -> np.ndarray:
    """Keep the largest parts of a mask and fill what they enclose."""
    return _fill(_largest(mask, min_share))


def _largest(mask: np.ndarray, min_share: float) -> np.ndarray:
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(1.0, min_share * sizes.max()))[labels]


def _fill(mask: np.ndarray) -> np.ndarray:
    """Fill holes of the volume and of every slice along the last dimension."""
    structure = ndimage.generate_binary_structure(mask.ndim, 1)
    filled = _without_enclosed(mask, structure, range(mask.ndim))
    if mask.ndim == 3:
        filled = _without_enclosed(filled, _in_plane(3), range(2))
    return filled


def _without_enclosed(mask: np.ndarray, structure: np.ndarray, dims: range) -> np.ndarray:
    labels, count = ndimage.label(~mask, structure)
    outside = np.zeros(count + 1, dtype=bool)
    for dim in dims:
        for edge in (0, -1):
            outside[np.unique(labels.take(edge, axis=dim))] = True
    outside[0] = False
    return ~outside[labels]


def _refine(
    array: np.ndarray, rough: np.ndarray, steps: tuple[int, ...], threshold: float, min_share: float
) -> np.ndarray:
    """Redraw a coarse mask's outline at full resolution."""
    near = ndimage.binary_dilation(rough, ndimage.generate_binary_structure(rough.ndim, rough.ndim))
    for dim, step in enumerate(steps):
        if step > 1:
            near = np.repeat(near, step, axis=dim).take(range(array.shape[dim]), axis=dim)
    box = _bounding_box(near)
    fine = _solid(near[box] & (array[box] > threshold), min_share)
    if fine.ndim == 2:
        opened = _open(fine)  # JPEG noise frays the outline, and rulers touch it
        fine = _largest(opened, min_share) if opened.any() else fine
    mask = np.zeros(array.shape, dtype=bool)
    mask[box] = fine
    return mask


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    box = []
    for dim in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != dim)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    return tuple(box)
