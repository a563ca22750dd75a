# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The affine transform in which a scan agrees best with a reference, found by Gauss and Newton's method.

With f the reference, w the scan brought to it and Δ(x) a small motion that is linear in its parameters, a step solves

    w(x) ≈ (a + b · x) f(x) + c + a ∇f(x) · Δ(x)        for a, b, c and Δ by least squares,

and brings the scan by T ∘ (1 + Δ)⁻¹ from then on. Gain and offset are free, so what is largest in the end is a
correlation; and so is the gain's slope b, since a bias field would otherwise be taken for a motion. All that a step
multiplies belongs to the reference, which is smooth, and is computed once: a step costs one interpolation and one
product, and a few of them reach the end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from monai_dpmm_ad.normative.lattice import Lattice, Volume

__all__ = ["Aligner", "see"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

_LEVELS = 5  # columns that explain a scan as it lies: the reference, 1, and the reference times x, y and z
_STEPS = 30
_HALVINGS = 4
_ENOUGH = 0.005  # places: a smaller step is the last
_LEAST_GAIN = 1e-6  # of the share of the scan's variance that is explained
_LEAST_SEEN = 0.3  # share of the reference's foreground: where less is seen anything agrees
_MOST_SHRUNK = 0.2  # determinant of a step


class Aligner:
    """Aligns scans with one reference.

    Args:
        reference: what they are aligned with.
        rigid: turn and move scans only.

    Reference:
        Baker and Matthews 2004, "Lucas-Kanade 20 years on: a unifying framework", the inverse compositional algorithm;
        Evangelidis and Psarakis 2008, "Parametric image alignment using enhanced correlation coefficient maximization".
    """

    def __init__(self, reference: Volume, rigid: bool = False) -> None:
        self.lattice, self.rigid = reference.lattice, rigid
        fixed: Array = (reference.values * reference.weight).astype(np.float32)
        slopes = np.stack([_slope(fixed, axis) for axis in range(3)])
        #: Where the reference is not empty, as numbers of places.
        self._near = np.flatnonzero((fixed > 0) | slopes.any(0))
        self._middle = (np.array(fixed.shape) - 1) / 2
        self._half = max(fixed.shape) / 2
        places = np.stack(np.unravel_index(self._near, fixed.shape)) - self._middle[:, None]
        unit: Array = (places / self._half).astype(np.float32)
        slopes = slopes.reshape(3, -1)[:, self._near]
        if rigid:
            turns = [slopes[k - 1] * unit[k - 2] - slopes[k - 2] * unit[k - 1] for k in range(3)]
        else:
            turns = [slope * along for slope in slopes for along in unit]
        level = fixed.ravel()[self._near]
        #: ``(5 + m, n)``: what explains a scan as it lies, and what each parameter of Δ changes the reference by.
        self._design: Array = np.stack([level, np.ones_like(level), *level * unit, *turns, *slopes])
        self._gram = _multiply(self._design, self._design)

    def align(self, moving: Volume, start: Matrix) -> Matrix:
        """Follow a start to the transform, reference → scan (mm, ``(4, 4)``), in which they agree best.

        Where a scan cannot be aligned from there (no overlap) the start itself is the end.
        """
        matrix = start
        best, gram, product = self._compare(moving, start)
        for _ in range(_STEPS):
            motion = _solve(gram, product)
            if motion is None:
                break
            for halving in range(_HALVINGS):
                step = self._to_matrix(motion * 0.5**halving)
                if np.linalg.det(step) < _MOST_SHRUNK:
                    continue
                tried = matrix @ np.linalg.inv(step)
                agreement, tried_gram, tried_product = self._compare(moving, tried)
                if agreement > best:
                    break
            else:
                break
            gain, best = agreement - best, agreement
            matrix, gram, product = tried, tried_gram, tried_product
            if gain < _LEAST_GAIN or np.abs(motion).max() * 0.5**halving < _ENOUGH:
                break
        return matrix

    def _compare(self, moving: Volume, matrix: Matrix) -> tuple[float, Matrix, Matrix]:
        """Share of a scan's variance that is explained as it lies, -1 where it has too little data to tell.

        With it the normal equations of all columns where the scan has data, ``(5 + m, 5 + m)`` and ``(5 + m,)``.
        """
        values = see(moving, matrix, self.lattice).ravel()
        seen, here = values >= 0, values[self._near]
        away = self._design[:, here < 0]
        gram = self._gram - _multiply(away, away) if away.size else self._gram.copy()
        values, here = np.maximum(values, 0), np.maximum(here, 0)
        count = gram[1, 1] = int(seen.sum())  # elsewhere the reference is 0
        product = np.einsum("in,n->i", self._design, here).astype(np.float64)
        product[1] = values.sum(dtype=np.float64)
        if away.shape[1] > (1 - _LEAST_SEEN) * len(here) or count == 0:
            return -1.0, gram, product
        total = float(np.einsum("n,n->", values, values)) - product[1] ** 2 / count
        told = product[:_LEVELS] @ np.linalg.lstsq(gram[:_LEVELS, :_LEVELS], product[:_LEVELS], rcond=None)[0]
        agreement = (told - product[1] ** 2 / count) / total if total > 0 else -1.0
        return float(agreement), gram, product

    def _to_matrix(self, motion: Matrix) -> Matrix:
        """1 + Δ, in mm, ``(4, 4)``."""
        linear, shift = motion[:-3] / self._half, motion[-3:]
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(linear).as_matrix() if self.rigid else np.eye(3) + linear.reshape(3, 3)
        step[:3, 3] = shift + self._middle - step[:3, :3] @ self._middle
        affine = self.lattice.affine
        return np.asarray(affine @ step @ np.linalg.inv(affine), dtype=np.float64)


def see(moving: Volume, matrix: Matrix, lattice: Lattice) -> Array:
    """A scan at the places of the reference, from where ``matrix`` leads to the scan (mm); -1 where it has no data."""
    index = np.linalg.inv(moving.lattice.affine) @ matrix @ lattice.affine
    image = moving.values * moving.weight
    return ndimage.affine_transform(image, index[:3, :3], index[:3, 3], output_shape=lattice.shape, order=1, cval=-1.0)


def _slope(values: Array, axis: int) -> Array:
    """Change from place to place along an axis; 0 where there is but one."""
    return np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values)


def _multiply(one: Array, two: Array) -> Matrix:
    """One times two transposed, ``(i, j)``, of rows that are long: by one thread, so that the bits do not vary."""
    return np.einsum("in,jn->ij", one, two).astype(np.float64)


def _solve(gram: Matrix, product: Matrix) -> Matrix | None:
    """The motion Δ that the normal equations ask for; None where they are singular or the gain is not positive."""
    try:
        solution = np.linalg.solve(gram, product)
    except np.linalg.LinAlgError:
        return None
    gain, motion = solution[0], solution[_LEVELS:]
    return motion / gain if gain > 0 else None
