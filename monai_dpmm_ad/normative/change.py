# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What changed between two visits: their intensities and their maps, against what did not change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.normative.combination import surprise
from monai_dpmm_ad.normative.halfway import bring
from monai_dpmm_ad.normative.intensity import polynomials, weigh_robustly
from monai_dpmm_ad.normative.lattice import Lattice
from monai_dpmm_ad.normative.visits import Visit, VisitPair, align_visits

__all__ = ["CHANGE_THRESHOLD", "Change", "compare_visits", "join_deviates", "match_intensities", "standardize_by"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Where regions of a change begin.
CHANGE_THRESHOLD = 4.0
#: Standard deviation (mm) of the Gaussian over both visits before they are compared: what is finer is mostly noise and
#: the slices' thickness.
_SMOOTHING = 1.0
#: Classes of edges, or of unusual places, each with a spread of its own.
_CLASSES = 24
#: Least spreads: of intensities in foreground medians, of maps.
_LEAST_INTENSITY, _LEAST_SCORE = 0.01, 0.1
_LEAST_INSIDE = 100  # places: of fewer nothing is usual
_MARGIN = 2  # places at the rim of what both visits show, which no interpolation gets right


@dataclass(frozen=True, eq=False)
class Change:
    """Two visits in the space half-way between them, and what changed from the first to the second.

    Exchanging the visits exchanges the parts of each pair and turns the sign of ``change``.

    Args:
        pair: where they lie.
        images: both visits' intensities ``(X, Y, Z)``, in foreground medians; of several sequences the first.
        maps: both visits' maps.
        masks: what is flagged in each.
        change: positive where the second visit is more unusual than the first, negative where it is less so, as far
            as intensity and map agree that something changed; 0 where only one of them was scanned.
    """

    pair: VisitPair
    images: tuple[Array, Array]
    maps: tuple[Array, Array]
    masks: tuple[Mask, Mask]
    change: Array


def compare_visits(before: Visit, after: Visit) -> Change:
    """Compare two visits of one person, which have the same sequences.

    Of several sequences the intensity of that one counts at each place whose difference is the most unusual.

    Raises:
        ScanError: naming the second visit, when the two do not show the same or what they share is too thin.
    """
    pair = align_visits(before, after)
    images, maps, masks, weights = [], [], [], []
    for visit, way in ((before, pair.to_before), (after, pair.to_after)):
        images.append([_bring_sequence(one, visit, pair.lattice, way) for one in (visit.image, *visit.others)])
        maps.append(bring(visit.anomaly_map, visit.map_affine, pair.lattice, way))
        masks.append(bring(visit.mask, visit.map_affine, pair.lattice, way) >= 0.5)
        weights.append(bring(visit.image > 0, visit.affine, pair.lattice, way))
    inside = ndimage.binary_erosion(np.minimum(*weights) > 0.99, iterations=_MARGIN)
    if np.count_nonzero(inside) < _LEAST_INSIDE:
        raise ScanError(after.path, "shares too little with the first visit, or is too thin, to be compared with it")
    sigma = _SMOOTHING / pair.lattice.spacing
    intensity = np.zeros(inside.shape, np.float32)
    for of_visits in zip(*images, strict=True):
        first, second = (ndimage.gaussian_filter(part, sigma, truncate=3) for part in of_visits)
        np.maximum(intensity, np.abs(_judge_intensity(first, second, inside)), out=intensity)
    first, second = (ndimage.gaussian_filter(part, sigma, truncate=3) for part in maps)
    score = _judge_score(first, second, inside)
    change = join_deviates(intensity, score)
    return Change(pair, (images[0][0], images[1][0]), (maps[0], maps[1]), (masks[0], masks[1]), change)


def _bring_sequence(values: Array, visit: Visit, lattice: Lattice, way: NDArray[np.float64]) -> Array:
    return bring(values / np.float32(np.median(values[values > 0])), visit.affine, lattice, way)


def join_deviates(intensity: Array, score: Array) -> Array:
    """Join both standardised changes into one: its size is what both agree on, its sign is that of the map.

    Args:
        intensity: deviates of the intensities' difference; their sign does not matter, since what is unusual may be
            bright or dark.
        score: deviates of the maps' difference.

    Returns:
        sign(score) · (surprise(|intensity|) · surprise(|score|))^½, each surprise less that of 0.
    """
    nothing = surprise(torch.zeros(()))
    sizes = [(surprise(torch.from_numpy(np.abs(part))) - nothing).numpy() for part in (intensity, score)]
    return (np.sign(score) * np.sqrt(sizes[0] * sizes[1])).astype(np.float32)


def match_intensities(before: Array, after: Array, inside: Mask) -> Array:
    """What is left of two visits' difference without gain, contrast and a smooth field, in which scanners differ.

    The difference is regressed on the mean of both and on a quadratic polynomial in space, and their products, by
    reweighted least squares in which what deviates has no say. Both visits enter alike.

    Args:
        before: ``(X, Y, Z)``, foreground's median about 1.
        after: same shape.
        inside: what counts.

    Returns:
        What is left of after − before, 0 outside.
    """
    difference = (after - before)[inside].astype(np.float64)
    mean = ((after + before) / 2)[inside].astype(np.float64)
    points = 2 * np.argwhere(inside) / np.maximum(np.array(inside.shape) - 1, 1) - 1
    space = polynomials(points, 2)
    level = mean - mean.mean()
    design = np.concatenate([space, np.stack([level, level**2, level**3], 1), points * level[:, None]], 1)
    residual = np.zeros_like(before)
    residual[inside] = difference - design @ weigh_robustly(design, difference)
    return residual


def standardize_by(values: Array, covariate: Array, inside: Mask, least: float) -> Array:
    """Divide differences, which are about 0, by their robust spread among places alike.

    Most places did not change: the median size of the differences at places with a like covariate, such as edges, which
    suffer from every small error of registration, says what is usual there.

    Args:
        values: ``(X, Y, Z)``.
        covariate: same shape.
        inside: what counts.
        least: smallest spread.

    Returns:
        Deviates, same shape, 0 outside.
    """
    known, x = np.abs(values[inside]), covariate[inside]
    edges = np.quantile(x, np.linspace(0, 1, _CLASSES + 1))
    number = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, _CLASSES - 1)
    order = np.argsort(number, kind="stable")
    groups = np.split(order, np.searchsorted(number[order], np.arange(1, _CLASSES)))
    centres, spreads = [], []
    for group in groups:
        if len(group):
            centres.append(float(np.median(x[group])))
            spreads.append(max(1.4826 * float(np.median(known[group])), least))
    out = np.zeros_like(values)
    beyond = np.maximum(x / max(centres[-1], 1e-12), 1)  # an error of registration grows with the edge
    out[inside] = values[inside] / (np.interp(x, centres, spreads) * beyond)
    return out


def _judge_intensity(before: Array, after: Array, inside: Mask) -> Array:
    residual = match_intensities(before, after, inside)
    edges = ndimage.gaussian_gradient_magnitude((before + after) / 2, 1.0)
    return standardize_by(residual, edges, inside, _LEAST_INTENSITY)


def _judge_score(before: Array, after: Array, inside: Mask) -> Array:
    difference = np.where(inside, after - before, np.float32(0))
    centre = float(np.median(difference[inside])) if inside.any() else 0.0
    return standardize_by(difference - np.float32(centre), (before + after) / np.float32(2), inside, _LEAST_SCORE)
