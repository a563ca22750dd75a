# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Affine registration of a scan to the cohort's reference, by SimpleITK."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["fit_box", "measure_quality", "register"]

Matrix = NDArray[np.float64]

#: Turns that are tried from the header's orientation, degrees about x, y and z.
_TILTS = (-30.0, 0.0, 30.0)
#: How many of the starts are followed.
_NUM_FOLLOWED = 3
#: Lattice cells that a scan is given as empty space where its field of view ends beyond it.
_MARGIN = 3
#: Share of its largest cross-section that a scan shows at the end of its field of view when it was cut off there.
_CUT = 0.35
_MIN_OVERLAP = 0.3


def register(image: NDArray[np.float32], affine: Matrix, reference: Volume, limit: float = 0.0) -> Frame:
    """Register a scan to a reference.

    The starts are the header's orientation, turned by up to 30° about each axis, and the principal axes of the
    foreground; the few that agree best with the reference are followed, and the best end is kept. The same input gives
    the same bits: no sample is random, one thread sums.

    Args:
        image: ``(X, Y, Z)``, scaled so that lesions cannot move it, background exactly 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (RAS, mm).
        reference: the cohort's mean.
        limit: least quality.

    Returns:
        A frame of kind ``affine``; or of kind ``box``, with the quality that was too low.
    """
    spacing = reference.lattice.spacing
    moving = pad_where_it_ends(resample(image, affine, spacing))
    coarse_reference, coarse = halve(reference), halve(moving)
    starts = rank_starts(coarse_reference, coarse)[:_NUM_FOLLOWED]
    followed = [optimize(coarse_reference, coarse, start) for start in starts]
    best = max(followed, key=lambda matrix: measure_quality(coarse_reference, coarse, matrix))
    end = optimize(reference, moving, best)
    quality = measure_quality(reference, moving, end)
    if quality < limit:
        return Frame("box", fit_box(image, affine, reference).matrix, quality)
    return Frame("affine", np.asarray(np.linalg.inv(end), dtype=np.float64), quality)


def fit_box(image: NDArray[np.float32], affine: Matrix, reference: Volume) -> Frame:
    """Bring the box around a scan's foreground onto that of the reference, along the scanner's axes.

    Args:
        image: as for `register`, not empty.
        affine: as for `register`.
        reference: the cohort's mean.
    """
    volume = resample(image, affine, reference.lattice.spacing)
    (low, high), (target_low, target_high) = find_box(volume), find_box(reference)
    scale = (target_high - target_low) / (high - low)
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = target_low - scale * low
    return Frame("box", matrix)


def find_box(volume: Volume) -> tuple[Matrix, Matrix]:
    """Lower and upper corner (mm) of the box around what is foreground."""
    inside = np.argwhere(volume.weight >= 0.5 * float(volume.weight.max()))
    corners = np.stack([inside.min(0) - 0.5, inside.max(0) + 0.5])
    low, high = corners * volume.lattice.spacing + np.array(volume.lattice.origin)
    return low, high


def measure_quality(reference: Volume, moving: Volume, matrix: Matrix) -> float:
    """Correlate a scan with the reference where either has foreground and the scan has data.

    Args:
        reference: the cohort's mean.
        moving: the scan.
        matrix: ``(4, 4)``, from the reference's coordinates to the scan's (mm).

    Returns:
        In [-1, 1]; -1 where too little of the reference is seen.
    """
    index = np.linalg.inv(moving.lattice.affine) @ matrix @ reference.lattice.affine
    shape = reference.lattice.shape
    values = ndimage.affine_transform(
        moving.values * moving.weight, index[:3, :3], index[:3, 3], output_shape=shape, order=1, cval=-1.0
    )
    seen = values >= 0
    fixed = reference.values * reference.weight
    counted = seen & ((fixed > 0.05) | (values > 0.05))
    if np.count_nonzero(seen & (reference.weight > 0.5)) < _MIN_OVERLAP * np.count_nonzero(reference.weight > 0.5):
        return -1.0
    a, b = fixed[counted], values[counted]
    if a.size < 8 or a.std() == 0 or b.std() == 0:
        return -1.0
    return float(np.corrcoef(a, b)[0, 1])


def rank_starts(reference: Volume, moving: Volume) -> list[Matrix]:
    """Order the starts by how well they agree with the reference."""
    starts = [*tilted_starts(reference, moving), *principal_starts(reference, moving)]
    return sorted(starts, key=lambda start: -measure_quality(reference, moving, start))


def tilted_starts(reference: Volume, moving: Volume) -> list[Matrix]:
    """The header's orientation and turns of it, centre on centre, and along a cut axis end on end."""
    fixed, centre = centroid(reference), centroid(moving)
    matrices = [join(turn(angles), fixed, centre) for angles in itertools.product(_TILTS, repeat=3)]
    (low, high), (target_low, target_high) = find_box(moving), find_box(reference)
    for axis, side in itertools.product(range(3), (0, 1)):
        shift = np.zeros(3)
        shift[axis] = ((low, high)[side] - centre)[axis] - ((target_low, target_high)[side] - fixed)[axis]
        matrices += [join(turn((angle, 0.0, 0.0)), fixed, centre + shift) for angle in _TILTS]
    return matrices


def principal_starts(reference: Volume, moving: Volume) -> list[Matrix]:
    """Principal axes on principal axes, in the four ways without a reflection."""
    fixed, axes = centroid(reference), principal_axes(moving)
    target = principal_axes(reference)
    signs = [np.diag([x, y, x * y]) for x, y in itertools.product((1.0, -1.0), repeat=2)]
    return [join(axes @ sign @ target.T, fixed, centroid(moving)) for sign in signs]


def centroid(volume: Volume) -> Matrix:
    """Centre of the foreground, mm."""
    return np.array(ndimage.center_of_mass(volume.weight)) * volume.lattice.spacing + np.array(volume.lattice.origin)


def principal_axes(volume: Volume) -> Matrix:
    """A rotation whose columns are the foreground's principal axes, the longest first."""
    points = np.argwhere(volume.weight > 0.5).astype(np.float64)
    _, vectors = np.linalg.eigh(np.cov(points.T))
    vectors = vectors[:, ::-1]
    vectors *= np.where(vectors[np.abs(vectors).argmax(0), range(3)] < 0, -1.0, 1.0)
    return vectors * (1.0 if np.linalg.det(vectors) > 0 else np.array([1.0, 1.0, -1.0]))


def turn(angles: Sequence[float]) -> Matrix:
    """Rotation about x, then y, then z, by degrees."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[i, i], step[j, j], step[i, j], step[j, i] = c, c, -s, s
        result = step @ result
    return result


def join(linear: Matrix, fixed: Matrix, moving: Matrix) -> Matrix:
    """The affine transform with this linear part that brings ``fixed`` onto ``moving``, ``(4, 4)``."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, moving - linear @ fixed
    return matrix


def pad_where_it_ends(volume: Volume) -> Volume:
    """Give a scan empty space on all sides but those where it was cut off: what lies beyond those is not known."""
    pads = []
    for axis in range(3):
        area = (volume.weight > 0.5).sum(tuple(other for other in range(3) if other != axis))
        ends = area[:2].max(), area[-2:].max()
        pads.append(tuple(0 if end > _CUT * area.max() else _MARGIN for end in ends))
    lattice = volume.lattice
    origin = [o - before * lattice.spacing for o, (before, _) in zip(lattice.origin, pads, strict=True)]
    values, weight = np.pad(volume.values, pads), np.pad(volume.weight, pads)
    x, y, z = values.shape
    return Volume(values, weight, Lattice((x, y, z), lattice.spacing, (origin[0], origin[1], origin[2])))


def halve(volume: Volume) -> Volume:
    """Half the resolution."""
    return resample(volume.values * volume.weight, volume.lattice.affine, 2 * volume.lattice.spacing)


def optimize(reference: Volume, moving: Volume, start: Matrix) -> Matrix:
    """Descend from a start to the affine transform, reference → scan (mm), of the largest correlation.

    Where the images cannot be registered from there (no overlap) the start itself is the end.
    """
    import SimpleITK as sitk

    transform = sitk.AffineTransform(3)
    fixed = centroid(reference)
    transform.SetCenter([float(value) for value in fixed])
    transform.SetMatrix(start[:3, :3].ravel().tolist())
    transform.SetTranslation((start[:3, :3] @ fixed + start[:3, 3] - fixed).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(sitk.ImageRegistrationMethod.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 100, 0.5, 1e-7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(_to_itk(reference), _to_itk(moving))
    except RuntimeError:
        return start
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + fixed - matrix[:3, :3] @ fixed
    return matrix if np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-3 else start


def _to_itk(volume: Volume) -> SimpleITK.Image:
    import SimpleITK as sitk

    image: Any = sitk.GetImageFromArray(np.ascontiguousarray((volume.values * volume.weight).transpose(2, 1, 0)))
    image.SetSpacing([volume.lattice.spacing] * 3)
    image.SetOrigin(volume.lattice.origin)
    return image
