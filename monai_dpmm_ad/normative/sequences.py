# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Where one sequence of a visit lies in another: by the scanner's coordinates, and by what the person moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.normative.halfway import turned_by
from monai_dpmm_ad.normative.lattice import Volume, resample, to_itk

__all__ = ["bring_sequence", "measure_overlap", "register_sequences"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

_SPACING = 3.0  # mm of the search
#: What is found is taken for a person's motion up to so much, mm of the centre and degrees; beyond, it went astray.
_MOST_MOVED, _MOST_TURNED = 25.0, 15.0
_BINS = 32


def measure_overlap(
    shape: tuple[int, ...], affine: Matrix, other_shape: tuple[int, ...], other_affine: Matrix
) -> float:
    """Share of the smaller field of view that lies in the other, by the boxes around them along the scanner's axes."""
    boxes = [_corners(*field) for field in ((shape, affine), (other_shape, other_affine))]
    low, high = (np.stack([edge(box, axis=0) for box in boxes]) for edge in (np.min, np.max))
    common = np.clip(high.min(0) - low.max(0), 0, None).prod()
    return float(common / (high - low).prod(1).min())


def register_sequences(image: Array, affine: Matrix, moving: Array, moving_affine: Matrix) -> Matrix:
    """Find the rigid motion between two sequences of one visit, by their mutual information.

    The search begins at the scanner's coordinates, and ends there where it finds less than one of its steps (3 mm in
    the corners of the field of view), or more than a person moves. The same input gives the same bits: no sample is
    random, one thread sums.

    Args:
        image: ``(X, Y, Z)``, as its file has it.
        affine: ``(4, 4)``, from its indices to scanner coordinates (RAS, mm).
        moving: the other sequence.
        moving_affine: as ``affine``.

    Returns:
        ``(4, 4)``, from the image's coordinates to those of ``moving`` (mm).

    Reference:
        Mattes, Haynor, Vesselle, Lewellen and Eubank 2003, "PET-CT image registration in the chest using free-form
        deformations", equation 4.
    """
    voxels = np.sqrt((np.stack([affine, moving_affine])[:, :3, :3] ** 2).sum(1))
    spacing = max(_SPACING, float(np.cbrt(voxels.prod(1)).max()))
    found = _search(
        resample(image - image.min(), affine, spacing), resample(moving - moving.min(), moving_affine, spacing)
    )
    corners = _corners(image.shape, affine)
    moved = np.linalg.norm(_move(corners, found) - corners, axis=1).max()
    centre = corners.mean(0)
    astray = np.linalg.norm(_move(centre, found) - centre) > _MOST_MOVED or turned_by(found) > _MOST_TURNED
    return np.eye(4) if astray or moved < spacing else found


def bring_sequence(
    moving: Array, moving_affine: Matrix, shape: tuple[int, ...], affine: Matrix, motion: Matrix
) -> Array:
    """Interpolate a sequence at the voxels of another; beyond its field of view it is as dark as it gets.

    Args:
        moving: ``(X, Y, Z)``, as its file has it.
        moving_affine: from its indices to scanner coordinates (mm).
        shape: of the other sequence.
        affine: of the other sequence.
        motion: see :func:`register_sequences`.
    """
    index = np.linalg.inv(moving_affine) @ motion @ affine
    step = np.abs(index[:3, :3]).max(1)  # voxels of the sequence for one of the other: what is finer must not alias
    values = moving
    for axis, size in enumerate(step):
        if size > 1.5:
            values = ndimage.gaussian_filter1d(values, 0.4 * float(size), axis, mode="nearest")
    darkest = float(moving.min())
    brought: Array = ndimage.affine_transform(
        values, index[:3, :3], index[:3, 3], output_shape=tuple(shape), order=1, mode="grid-constant", cval=darkest
    )
    return brought


def _search(fixed: Volume, moving: Volume) -> Matrix:
    """Climb from the scanner's coordinates to the rigid motion of the largest mutual information."""
    import SimpleITK as sitk

    centre = fixed.lattice.points().reshape(-1, 3).mean(0)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(sitk.ImageRegistrationMethod.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 100, 0.5, 1e-7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([8, 4, 0])  # mm
    method.SetInitialTransform(transform, inPlace=True)
    images = [to_itk(volume.values, volume.lattice) for volume in (fixed, moving)]
    try:
        before = method.MetricEvaluate(*images)
        method.Execute(*images)
    except RuntimeError:  # the images have nothing in common
        return np.eye(4)
    if not method.GetMetricValue() < before:
        return np.eye(4)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return matrix


def _move(points: Matrix, matrix: Matrix) -> Matrix:
    """Points ``(…, 3)`` after a transform ``(4, 4)``."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def _corners(shape: tuple[int, ...], affine: Matrix) -> Matrix:
    """Corners of a field of view, ``(8, 3)``, mm."""
    ends = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T * np.array(shape) - 0.5
    return _move(ends, affine)
