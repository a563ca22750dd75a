# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Known ways to make scans of two scanners alike: what `benchmarks/shift.py` does to a scan before it is mapped.

Both look at the scan alone, not at what healthy scans have at its places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK
from numpy.typing import NDArray

__all__ = ["LANDMARKS", "NORMALISERS", "find_landmarks", "normalise"]

#: ``none`` leaves scans as they are.
NORMALISERS = ("none", "n4", "nyul")
#: Percentiles of the foreground.
LANDMARKS = (1.0, *map(float, range(10, 100, 10)), 99.0)
_SHRINK = 2  # the field is smooth: N4 looks at every second voxel


def normalise(values: NDArray[np.float32], way: str, standard: NDArray[np.float64]) -> NDArray[np.float32]:
    """Normalise a scan by one of `NORMALISERS`.

    Args:
        values: ``(X, Y, Z)``, background 0.
        way: ``n4`` takes the bias field away; ``nyul`` brings the landmarks of the histogram to those of the cohort.
        standard: mean of the fitted scans' `find_landmarks`.

    Reference:
        Tustison et al. 2010, "N4ITK: improved N3 bias correction". Nyúl, Udupa and Zhang 2000, "New variants of a
        method of MRI scale standardization".
    """
    if way == "n4":
        return _correct_field(values)
    if way == "nyul":
        return _bring_landmarks(values, standard)
    return values


def find_landmarks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Percentiles of the foreground, in its medians."""
    inside = values[values > 0]
    return np.percentile(inside, LANDMARKS) / np.median(inside)


def _bring_landmarks(values: NDArray[np.float32], standard: NDArray[np.float64]) -> NDArray[np.float32]:
    """Linear between landmarks, beyond the outer ones as steep as next to them."""
    median = np.median(values[values > 0])
    own, level = find_landmarks(values), values / median
    changed = np.interp(level, own, standard)
    for outer, inner, beyond in ((0, 1, level < own[0]), (-1, -2, level > own[-1])):
        slope = (standard[outer] - standard[inner]) / (own[outer] - own[inner])
        changed[beyond] = standard[outer] + slope * (level[beyond] - own[outer])
    return np.where(values > 0, np.maximum(median * changed, 1e-3 * median), 0).astype(np.float32)


def _correct_field(values: NDArray[np.float32]) -> NDArray[np.float32]:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values))
    mask = SimpleITK.GetImageFromArray((values > 0).astype(np.uint8))
    steps: Sequence[int] = [_SHRINK if size > 32 else 1 for size in image.GetSize()]
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.Execute(SimpleITK.Shrink(image, steps), SimpleITK.Shrink(mask, steps))
    field = SimpleITK.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    return np.where(values > 0, values / np.exp(field), 0).astype(np.float32)
