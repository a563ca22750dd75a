# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Another scanner's bias field and contrast, found against healthy scans at the same place and taken away.

It comes before the network, so that embedding and registration see what they were fitted on.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial.polynomial import polygrid3d
from numpy.typing import NDArray

from monai_dpmm_ad.normative.intensity import polynomials_of_place, powers, weigh_robustly
from monai_dpmm_ad.normative.lattice import Lattice, Volume, index_voxels, move_start, sample_places

__all__ = ["Match", "match_intensity"]

Array = NDArray[np.float32]

_DEGREE = 3
_LEAST = 1e-3  # of a median: what is darker has no logarithm worth fitting
#: Intensities that are brought to those of the reference, and the share of the places, least varied, that they are
#: read from.
_LANDMARKS, _SHARE = 6, 0.6
_FEWEST = 50  # places behind a landmark
#: Least correlation with what is expected at the scan's places; below it nothing can be told from them.
_LEAST_AGREEMENT = 0.5
#: Voxels that are changed at once.
_SLAB = 1 << 20


@dataclass(frozen=True, eq=False)
class Match:
    """What turns a scan's intensities into those of the fitted scans: y = level · h(x / (e^field · level)).

    Args:
        field: ``(1, X, Y, Z)``, logarithm of the bias field on ``lattice``; its median in the foreground is 0.
        lattice: of the field.
        level: the scan's median, which stays.
        own: intensities of the scan at the landmarks, in ``level``, rising from 0.
        fitted: of the fitted scans there, in their medians: h goes through these points.
    """

    field: torch.Tensor
    lattice: Lattice
    level: float
    own: NDArray[np.float64]
    fitted: NDArray[np.float64]

    def apply(self, image: Array, affine: NDArray[np.float64], floor: float = 1e-3) -> Array:
        """Change an image ``(X, Y, Z)``; its foreground stays in [floor, 1], its background 0."""
        out = np.zeros_like(image)
        step = max(1, _SLAB // max(1, image[0].size))
        for first in range(0, len(image), step):
            slab = image[first : first + step]
            places = index_voxels(slab.shape, move_start(affine, first), self.lattice)
            flat = slab / (np.exp(sample_places(self.field, places)[0].numpy()) * np.float32(self.level))
            changed = np.clip(self.level * self.bend(flat), floor, 1)
            out[first : first + step] = np.where(slab > 0, changed, 0)
        return out

    def bend(self, values: Array) -> Array:
        """h: linear between the landmarks, and beyond the last as steep as over all of them."""
        own, fitted = self.own, self.fitted
        slope = (fitted[-1] - fitted[0]) / (own[-1] - own[0])
        beyond = fitted[-1] + slope * (values - own[-1])
        return np.where(values > own[-1], beyond, np.interp(values, own, fitted)).astype(np.float32)


def match_intensity(scan: Volume, level: float, mean: Array, spread: Array) -> Match | None:
    """Find a scan's bias field and contrast by robust regression on what healthy scans have at its places.

    The logarithm of scan over expectation is a cubic polynomial of the place, the field, plus a quadratic of the
    expectation, the contrast, which only keeps tissue out of the field. The contrast itself is read off at landmarks:
    places are binned by what is expected there, and the median of the scan goes to the median of the expectations. What
    deviates by much, such as a lesion, has no say in the first, and a lesion that fills less than half of a bin hardly
    any in the second.

    Args:
        scan: its values in medians of its foreground.
        level: that median, in the image's unit.
        mean: what is expected at the scan's places, in the same unit as its values.
        spread: between healthy scans there.

    Returns:
        None where the scan does not agree with the expectation: it is somewhere else, or of another kind.

    Reference:
        Nyúl, Udupa and Zhang 2000, "New variants of a method of MRI scale standardization", for the landmarks; here
        places give them, not ranks.
    """
    inside = (scan.weight > 0.5) & (scan.values > _LEAST) & (mean > _LEAST)
    if int(inside.sum()) < _FEWEST * _LANDMARKS:
        return None
    place, tissue = polynomials_of_place(inside, _DEGREE), np.log(mean[inside])
    tissue = (tissue - tissue.mean()) / max(float(tissue.std()), 1e-6)
    design = np.concatenate([place, tissue[:, None], tissue[:, None] ** 2], 1)
    ratio = np.log(scan.values[inside]).astype(np.float64) - np.log(mean[inside])
    weights = np.zeros((_DEGREE + 1,) * 3)
    weights[tuple(zip(*powers(_DEGREE), strict=True))] = weigh_robustly(design, ratio)[: place.shape[1]]
    x, y, z = (np.linspace(-1, 1, size) for size in inside.shape)
    field = polygrid3d(x, y, z, weights).astype(np.float32)
    flat: Array = (scan.values[inside] / np.exp(field[inside])).astype(np.float32)
    middle = float(np.median(flat))
    field, flat = field + np.float32(np.log(middle)), (flat / middle).astype(np.float32)
    if flat.std() == 0 or float(np.corrcoef(flat, mean[inside])[0, 1]) < _LEAST_AGREEMENT:
        return None
    own, fitted = _find_landmarks(flat, mean[inside], spread[inside])
    if len(own) < 3:
        return None
    return Match(torch.from_numpy(field)[None], scan.lattice, level, own, fitted)


def _find_landmarks(values: Array, mean: Array, spread: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intensities of a scan and of the fitted ones at the same kinds of places, both rising from 0."""
    varied = spread / mean
    steady = varied <= np.quantile(varied, _SHARE)
    values, mean = values[steady], mean[steady]
    edges = np.quantile(mean, np.linspace(0, 1, _LANDMARKS + 1))
    points = [(0.0, 0.0)]
    for low, high in itertools.pairwise(edges):
        here = (mean >= low) & (mean <= high)
        if here.sum() < _FEWEST:
            continue
        point = float(np.median(values[here])), float(np.median(mean[here]))
        if point[0] > points[-1][0] + _LEAST and point[1] > points[-1][1] + _LEAST:
            points.append(point)
    own, fitted = np.array(points).T
    return own, fitted
