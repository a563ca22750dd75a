# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Intensities that can be compared between scans."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.normative.lattice import Volume
from monai_dpmm_ad.ops.robust import spread_of

__all__ = [
    "divide_by_median",
    "foreground_median",
    "judge_by_itself",
    "polynomials_of_place",
    "remove_own_part",
    "remove_smooth_part",
    "smooth",
    "weigh_robustly",
]

Array = NDArray[np.float32]

_STEP = 7  # every seventh place is enough for ten coefficients
_ROUNDS = 8
_WIDEST = 0.9  # what a scan's own deviations are scaled down to where they are wider


def divide_by_median(volume: Volume) -> Array:
    """Divide by the foreground's median, see :func:`foreground_median`."""
    return volume.values / np.float32(foreground_median(volume))


def foreground_median(volume: Volume) -> float:
    """The foreground's median, which lesions hardly move.

    Raises:
        ValueError: no foreground.
    """
    inside = volume.weight > 0.5
    if not inside.any():
        inside = volume.weight > 0
    median = float(np.median(volume.values[inside])) if inside.any() else 0.0
    if median <= 0:
        raise ValueError("the foreground is empty or its median is not positive")
    return median


def smooth(values: Array, weight: Array, sigma: float) -> Array:
    """Smooth inside the foreground: what lies outside has no weight.

    Args:
        values: ``(X, Y, Z)``.
        weight: same shape, in [0, 1].
        sigma: standard deviation of the Gaussian along each axis longer than 1, in elements; 0 leaves all as it is.
    """
    if sigma == 0:
        return values
    sigmas = tuple(sigma if size > 1 else 0.0 for size in values.shape)
    total, share = (
        ndimage.gaussian_filter(part.astype(np.float32, copy=False), sigmas, mode="constant", truncate=3.0)
        for part in (values * weight, weight)
    )
    return np.divide(total, share, out=np.zeros_like(total), where=share > 1e-3)


def remove_own_part(residual: Array, inside: NDArray[np.bool_], expected: Array | None) -> Array:
    """Take from a scan's deviations at two scales or more, ``(C, X, Y, Z)``, the finest first, what is the scan's own.

    Args:
        residual: deviations in standard deviations.
        inside: ``(X, Y, Z)``, what counts.
        expected: same shape, see :func:`judge_by_itself`; None takes the smooth part of the finest scale alone, since
            without knowing the tissue that of a coarser one may be a lesion.
    """
    if expected is None:
        return np.stack([remove_smooth_part(residual[0], inside), *residual[1:]])
    return np.stack([judge_by_itself(channel, inside, expected) for channel in residual])


def remove_smooth_part(residual: Array, inside: NDArray[np.bool_], degree: int = 2, scale: float = 1.0) -> Array:
    """Take a low-order polynomial in space from the deviations of a scan: its gain, its bias field, its tissue's age.

    The polynomial is fitted by reweighted least squares with Welsch's weights exp(−½ (e / scale)²): what deviates by
    several standard deviations, such as a lesion, has no say, see :func:`weigh_robustly`.

    Args:
        residual: ``(X, Y, Z)``, deviations in standard deviations.
        inside: same shape, what counts.
        degree: of the polynomial, 0 to 3.
        scale: deviations up to about this one are fitted.

    Returns:
        Same shape, 0 outside.
    """
    out = np.zeros_like(residual)
    if inside.any():
        design = polynomials_of_place(inside, degree)
        values = residual[inside].astype(np.float64)
        out[inside] = values - design @ weigh_robustly(design, values, scale)
    return out


def judge_by_itself(residual: Array, inside: NDArray[np.bool_], expected: Array) -> Array:
    """Take from the deviations of a scan what they have in common: its gain, bias field, contrast, its tissue's age.

    That is a quadratic polynomial of the place plus a quadratic of what is expected there, fitted by robust least
    squares, see :func:`weigh_robustly`: what deviates by several spreads of its own, such as a lesion, has no say. What
    is left is scaled down to a spread of 0.9 where it has more; that of healthy scans is about 0.5.

    Args:
        residual: ``(X, Y, Z)``, deviations in standard deviations.
        inside: same shape, what counts.
        expected: same shape, intensity of healthy scans at the scan's places.

    Returns:
        Same shape, 0 outside.
    """
    out = np.zeros_like(residual)
    if not inside.any():
        return out
    tissue = expected[inside].astype(np.float64)
    tissue = ((tissue - tissue.mean()) / max(float(tissue.std()), 1e-6))[:, None]
    design = np.concatenate([polynomials_of_place(inside, 2), tissue, tissue**2], 1)
    values = residual[inside].astype(np.float64)
    own = values - design @ weigh_robustly(design, values)
    out[inside] = own / max(1.0, spread_of(own) / _WIDEST)
    return out


def polynomials_of_place(inside: NDArray[np.bool_], degree: int) -> NDArray[np.float64]:
    """All monomials up to a degree at the elements that count ``(n, m)``, the volume's edges at -1 and 1."""
    return polynomials(2 * np.argwhere(inside) / np.maximum(np.array(inside.shape) - 1, 1) - 1, degree)


def weigh_robustly(
    design: NDArray[np.float64], values: NDArray[np.float64], scale: float | None = None
) -> NDArray[np.float64]:
    """Coefficients ``(m,)`` of a linear model by least squares with Welsch's weights exp(−½ (e / scale)²).

    Args:
        design: ``(n, m)``.
        values: ``(n,)``.
        scale: deviations up to about this one are fitted; None takes twice their robust spread, anew in each round.

    Reference:
        Holland and Welsch 1977, "Robust regression using iteratively reweighted least-squares".
    """
    if len(values) > 100 * _STEP:
        design, values = design[::_STEP], values[::_STEP]
    weight = np.ones(len(values))
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
        coefficients = np.asarray(solution, dtype=np.float64)
        errors = values - design @ coefficients
        width = scale if scale is not None else max(2 * 1.4826 * float(np.median(np.abs(errors))), 1e-6)
        weight = np.exp(-0.5 * (errors / width) ** 2)
    return coefficients


def polynomials(points: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """All monomials up to a degree at points ``(n, 3)`` in [-1, 1]: ``(n, m)``."""
    x, y, z = np.moveaxis(np.stack([points**power for power in range(degree + 1)]), 2, 0)
    return np.stack([x[i] * y[j] * z[k] for i, j, k in powers(degree)], axis=1)


def powers(degree: int) -> list[tuple[int, int, int]]:
    """Of x, y and z in the monomials up to a degree, in their order."""
    return [(i, j, k) for i in range(degree + 1) for j in range(degree + 1 - i) for k in range(degree + 1 - i - j)]
