# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A smooth field of a few mm that an affine registration leaves over, by SimpleITK's demons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Volume

__all__ = ["deform"]

_ITERATIONS = 15
_SMOOTHING = 2.0  # standard deviation of the field's Gaussian, in places: what is finer, such as a lesion, stays
_BRIGHTEST = 2.0  # times the median: fat and vessels do not steer the field


def deform(moving: Volume, reference: Volume, frame: Frame) -> Frame:
    """Refine an affine frame by a smooth field.

    Args:
        moving: the scan pulled to the reference's lattice by ``frame``, its foreground's median 1.
        reference: the cohort's mean, its foreground's median 1.
        frame: of kind ``affine``.

    Returns:
        A frame of kind ``deformed``; the field is 0 where there is nothing to register.

    Reference:
        Vercauteren, Pennec, Perchant and Ayache 2009, "Diffeomorphic demons", symmetric forces.
    """
    import SimpleITK as sitk

    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)
    demons.SetNumberOfIterations(_ITERATIONS)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(_SMOOTHING)
    images = []
    for volume in (reference, moving):
        values = np.minimum(volume.values * volume.weight, _BRIGHTEST)
        images.append(sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0), dtype=np.float32)))
    steps = sitk.GetArrayFromImage(demons.Execute(*images))  # (Z, Y, X, 3), in places along x, y and z
    field: NDArray[np.float32] = (steps.transpose(2, 1, 0, 3) * reference.lattice.spacing).astype(np.float32)
    return Frame("deformed", frame.matrix, frame.quality, field, reference.lattice)
