# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The brain in a scan of a whole head, where the fitted scans are brains that were cut out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from monai_dpmm_ad.normative.intensity import foreground_median
from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample, to_itk
from monai_dpmm_ad.normative.matching import match_intensity
from monai_dpmm_ad.normative.reference import pull
from monai_dpmm_ad.normative.registration import TILTS, centroid, find_box, halve, join, turn

__all__ = ["LARGER", "check_extent", "correlate_everywhere", "find_brain", "measure_foreground", "measure_volume"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: A scan whose foreground is so many times as large as the fitted scans' may be a whole head.
LARGER = 1.5
#: What a scan may show, times what was fitted: a whole body where brains were, a cube of a few millimetres of one.
_LARGEST, _SMALLEST = 64.0, 1e-4
#: How many of the starts are followed.
_NUM_FOLLOWED = 3
#: What is registered in turn, each time with the scan's field and contrast taken away anew: a rigid, then affine ones.
_RIGID = (True, False, False)
#: Least correlation with the reference in and just around its foreground.
_LEAST_QUALITY = 0.8
#: Least shares of the reference's foreground, and of the places around it, where the scan has foreground.
_LEAST_INSIDE, _LEAST_AROUND = 0.95, 0.6
#: Places of the reference between its foreground and where a skull would be, and how many are looked at there.
_GAP, _SKULL = 2, 2
#: Places beyond the reference's foreground where a scan's field and contrast are still told from it.
_REACH = 4
_BRIGHTEST = 2.5  # times the median: fat beside the brain does not steer
#: Share of the fitted scans that have foreground at a place of the brain.
_SHARE = 0.3
#: What is darker than this share of the brain's median is skull or fluid, and taken off from outside, so deep at most;
#: what is narrower than twice the third (mm) stays in, and so does a cavity, dark and wider than twice the last.
_DARK, _DEEPEST, _NARROW, _WIDE = 0.3, 8.0, 3.0, 5.0


def measure_volume(reference: Volume) -> float:
    """Size of a reference's foreground in mL."""
    return measure_foreground(reference.weight > 0.5, reference.lattice.affine)


def measure_foreground(inside: NDArray[Any], affine: Matrix) -> float:
    """Size in mL of what is not 0 in ``(X, Y, Z)``, whose indices ``affine`` leads to scanner coordinates (mm)."""
    return np.count_nonzero(inside) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def check_extent(inside: NDArray[Any], affine: Matrix, reference: Volume) -> float:
    """Refuse a scan whose voxel sizes cannot be right, before it is resampled to millions of places, or to none.

    Args:
        inside: ``(X, Y, Z)``, not 0 where the scan has foreground.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm).
        reference: what was fitted.

    Returns:
        How many times as large as the reference's its foreground is.

    Raises:
        ValueError: it is larger or smaller than any head, or part of one, beside what was fitted.
    """
    seen, fitted = measure_foreground(inside, affine), measure_volume(reference)
    if not _SMALLEST * fitted <= seen <= _LARGEST * fitted:
        raise ValueError(
            f"what it shows measures {seen:.3g} mL, what was fitted {fitted:.0f} mL; look at its voxel sizes"
        )
    return seen / fitted


def find_brain(image: Array, affine: Matrix, reference: Volume) -> Mask | None:
    """Find in a scan what the fitted scans show, by a registration in which nothing else counts.

    The starts are the best places in the scan of the reference, turned by up to 30° about each axis. The best end of a
    rigid registration at half the resolution is refined by an affine one. Before each step the scan's bias field and
    contrast are taken away as far as they can be told from the reference inside it, without which the brain grows
    into the scalp. The mask is the reference's foreground carried over, without what is as dark as the skull in its
    outermost millimetres and thin. Nothing is taken off for being bright.

    Args:
        image: ``(X, Y, Z)``, scaled, background exactly 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (RAS, mm).
        reference: the fitted cohort's mean, its foreground's median 1.

    Returns:
        ``(X, Y, Z)``; None where the scan does not agree with the reference inside it, does not hold all of it, or has
        nothing around it.
    """
    finest = resample(image, affine, reference.lattice.spacing / 2)
    moving = halve(finest)
    counted = ndimage.binary_dilation(reference.weight > 0.5)
    end = _register(reference, moving, counted)
    if end is None or not _is_surrounded(reference, pull(moving, end, reference.lattice)):
        return None
    brain = _trim(reference, finest, end)
    return _carry(brain, end, image.shape, affine) & (image > 0)


def _register(reference: Volume, moving: Volume, counted: Mask) -> Matrix | None:
    """Reference → scan (mm), ``(4, 4)``; None where their agreement is too low."""
    coarse_reference, coarse = halve(reference), halve(moving)
    inside = ndimage.binary_dilation(coarse_reference.weight > 0.5)
    ends = [_descend(coarse_reference, coarse, start, True, inside) for start in _find_starts(coarse_reference, coarse)]
    end = max(ends, key=lambda one: _agree(coarse_reference, pull(coarse, one, coarse_reference.lattice), inside))
    best, quality = end, -1.0
    for rigid in (*_RIGID, None):
        evened = _even(reference, pull(moving, end, reference.lattice))
        if evened is None:
            break
        found = _agree(reference, evened, counted)
        if found > quality:
            best, quality = end, found
        if rigid is not None:
            end = end @ _descend(reference, evened, np.eye(4), rigid, counted)
    return best if quality >= _LEAST_QUALITY else None


def _descend(reference: Volume, moving: Volume, start: Matrix, rigid: bool, inside: Mask) -> Matrix:
    """Descend to the transform, reference → scan (mm), of the largest correlation over the places that count.

    Gauss and Newton's method, by which brains are registered, reaches less far: in a scalp it misses one head in five.
    Where they cannot be registered from the start (no overlap) it is the end.
    """
    import SimpleITK as sitk

    transform = sitk.Euler3DTransform() if rigid else sitk.AffineTransform(3)
    fixed = centroid(reference)
    transform.SetCenter(fixed.tolist())
    transform.SetMatrix(start[:3, :3].ravel().tolist())
    transform.SetTranslation((start[:3, :3] @ fixed + start[:3, 3] - fixed).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(to_itk(inside.astype(np.uint8), reference.lattice))
    method.SetMetricSamplingStrategy(sitk.ImageRegistrationMethod.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 100, 0.5, 1e-7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(*(to_itk(part.values * part.weight, part.lattice) for part in (reference, moving)))
    except RuntimeError:
        return start
    matrix = join(np.array(transform.GetMatrix()).reshape(3, 3), fixed, np.array(transform.GetTranslation()) + fixed)
    return matrix if np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-3 else start


def _find_starts(reference: Volume, moving: Volume) -> list[Matrix]:
    """The best place of the reference in the scan for each turn of it; the few that agree best."""
    spacing, fixed = reference.lattice.spacing, centroid(reference)
    pads = np.array(reference.lattice.shape) // 2
    scan = np.pad(moving.values * moving.weight, [(pad, pad) for pad in pads])
    first = np.array(moving.lattice.origin) - spacing * pads - np.array(reference.lattice.origin)
    found = []
    for angles in itertools.product(TILTS, repeat=3):
        rotation = turn(angles)
        turned = pull(reference, join(rotation.T, fixed, fixed), reference.lattice)
        inside = ndimage.binary_dilation(turned.weight > 0.5)
        agreement = correlate_everywhere(scan, turned.values * turned.weight, inside)
        index = np.unravel_index(agreement.argmax(), agreement.shape)
        shift = first + spacing * np.array(index)
        found.append((float(agreement[index]), join(rotation, fixed, fixed + shift)))
    return [start for _, start in sorted(found, key=lambda pair: -pair[0])[:_NUM_FOLLOWED]]


def correlate_everywhere(scan: Array, template: Array, inside: Mask) -> Array:
    """Correlate a template with a scan at every shift, over those elements of the template that count.

    Args:
        scan: ``(X, Y, Z)``.
        template: ``(x, y, z)``, nowhere larger than the scan.
        inside: same shape, what counts.

    Returns:
        ``(X − x + 1, Y − y + 1, Z − z + 1)``: the correlation where the template's first element lies; 0 where the scan
        is constant.

    Reference:
        Padfield 2012, "Masked object registration in the Fourier domain", with a mask of the template alone.

    Example:
        >>> scan = np.random.default_rng(0).random((8, 8, 8), dtype=np.float32)
        >>> found = correlate_everywhere(scan, scan[2:5, 1:4, 3:6], np.ones((3, 3, 3), bool))
        >>> [int(index) for index in np.unravel_index(found.argmax(), found.shape)], round(float(found.max()), 3)
        ([2, 1, 3], 1.0)
    """
    size = [fft.next_fast_len(length, real=True) for length in scan.shape]
    kept = tuple(slice(long - short + 1) for long, short in zip(scan.shape, template.shape, strict=True))
    centred = np.where(inside, template - template[inside].mean(), 0)
    values, squares, marks, pattern = (
        fft.rfftn(part.astype(np.float64), size) for part in (scan, scan.astype(np.float64) ** 2, inside, centred)
    )

    def slide(ours: NDArray[np.complex128], theirs: NDArray[np.complex128]) -> Matrix:
        return np.asarray(fft.irfftn(ours * theirs.conj(), size)[kept], dtype=np.float64)

    variation = np.maximum(slide(squares, marks) - slide(values, marks) ** 2 / int(inside.sum()), 0)
    scale = np.sqrt(variation * float((centred**2).sum()))
    known = scale > 1e-3 * scale.max()
    return np.divide(slide(values, pattern), scale, out=np.zeros_like(scale), where=known).astype(np.float32)


def _even(reference: Volume, pulled: Volume) -> Volume | None:
    """A scan at the reference's places without the field and contrast that are its own; None where it is unlike it."""
    inside = reference.weight > 0.5
    brain = Volume(pulled.values, np.where(inside, pulled.weight, 0), pulled.lattice)
    if not (brain.weight > 0.5).any():
        return None
    level = foreground_median(brain)
    scan = Volume(brain.values / np.float32(level), brain.weight, brain.lattice)
    match = match_intensity(scan, level, reference.values, np.ones_like(reference.values))
    if match is None:
        return None
    values = match.bend((pulled.values / (np.exp(match.field[0].numpy()) * level)).astype(np.float32))
    near = ndimage.binary_dilation(inside, iterations=_REACH)
    return Volume(np.where(near, np.clip(values, 0, _BRIGHTEST), 0).astype(np.float32), pulled.weight, pulled.lattice)


def _agree(reference: Volume, pulled: Volume, counted: Mask) -> float:
    """Correlation over the places that count; -1 where the scan is constant there."""
    a, b = ((volume.values * volume.weight)[counted] for volume in (reference, pulled))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else -1.0


def _is_surrounded(reference: Volume, pulled: Volume) -> bool:
    """Whether a scan fills the reference's foreground and goes on beyond it, as a head does and a brain does not."""
    inside, seen = reference.weight > 0.5, pulled.weight > 0.5
    near, far = (ndimage.binary_dilation(inside, iterations=count) for count in (_GAP, _GAP + _SKULL))
    return bool(seen[inside].mean() >= _LEAST_INSIDE and seen[far & ~near].mean() >= _LEAST_AROUND)


def _trim(reference: Volume, finest: Volume, end: Matrix) -> Volume:
    """The brain in the reference's space, at twice its resolution: its foreground without the scan's dark rim."""
    spacing, (x, y, z) = reference.lattice.spacing / 2, (2 * size for size in reference.lattice.shape)
    origin = np.array(reference.lattice.origin) - spacing / 2
    lattice = Lattice((x, y, z), spacing, (origin[0], origin[1], origin[2]))
    brain = pull(reference, np.eye(4), lattice).weight > _SHARE
    pulled = pull(finest, end, lattice)
    values, depth = pulled.values * pulled.weight, _measure_depth(brain, spacing)
    core = depth > _DEEPEST
    bright = brain & (values > _DARK * float(np.median(values[core if core.any() else brain])))
    wide = _measure_depth(brain & ~bright, spacing) > _WIDE
    cavity = brain & (_measure_depth(~wide, spacing) <= _WIDE)
    parts, _ = ndimage.label(ndimage.binary_opening(bright | core | cavity))
    kept = parts == parts[np.unravel_index(depth.argmax(), depth.shape)]
    closed = _measure_depth(_measure_depth(~kept, spacing) <= _NARROW, spacing) > _NARROW
    mask = ndimage.binary_fill_holes(brain & closed).astype(np.float32)
    return Volume(mask, mask, lattice)


def _measure_depth(mask: Mask, spacing: float) -> Matrix:
    """Distance of each place in a mask to what is outside of it, mm."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing), dtype=np.float64)


def _carry(brain: Volume, end: Matrix, shape: tuple[int, ...], affine: Matrix) -> Mask:
    """A mask in the reference's space at the voxels of a scan; what lies beyond its box is not looked at."""
    to_scan = np.linalg.inv(affine) @ end
    corners = np.stack(np.meshgrid(*zip(*find_box(brain), strict=True)), -1).reshape(-1, 3)
    index = corners @ to_scan[:3, :3].T + to_scan[:3, 3]
    low = np.clip(np.floor(index.min(0)).astype(int) - 1, 0, shape)
    high = np.clip(np.ceil(index.max(0)).astype(int) + 2, low, shape)
    back = np.linalg.inv(brain.lattice.affine) @ np.linalg.inv(end) @ affine
    offset = back[:3, :3] @ low + back[:3, 3]
    mask = np.zeros(shape, dtype=bool)
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    part = ndimage.affine_transform(brain.weight, back[:3, :3], offset, output_shape=tuple(high - low), order=1)
    mask[box] = part > 0.5
    return mask
