# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is kept of one scan: small sparse histograms instead of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from monai_dpmm_ad.metrics.froc import find_false_positive_events
from monai_dpmm_ad.ops.components import label_components
from monai_dpmm_ad.ops.histogram import COARSE, ScoreBinning, count_keys, count_scores
from monai_dpmm_ad.ops.slabs import slab_bounds

__all__ = [
    "FieldCounts",
    "FieldRecord",
    "FrocRecord",
    "Lesions",
    "ScanRecord",
    "check_map",
    "count_fields",
    "count_froc",
    "find_lesions",
    "to_class",
    "to_mask",
    "to_score",
]


@dataclass(frozen=True)
class FieldCounts:
    """One scan's histograms over a field (all pixels, or the foreground); keys ascend.

    Args:
        neg_keys: (n,) bins that hold normal pixels.
        neg: (n,) their number.
        pos_keys: (m,) bins that hold abnormal pixels.
        pos: (m,) their number.
        overlap: (m,) sum over the bin's abnormal pixels of 1 / (size of the pixel's lesion).
    """

    neg_keys: np.ndarray
    neg: np.ndarray
    pos_keys: np.ndarray
    pos: np.ndarray
    overlap: np.ndarray

    def coarsen(self, binning: ScoreBinning) -> FieldCounts:
        """Add up bins of ``binning`` into those of :data:`COARSE`."""
        neg_keys, neg = _merge(binning, self.neg_keys, self.neg)
        pos_keys, pos, overlap = _merge(binning, self.pos_keys, self.pos, self.overlap)
        return FieldCounts(neg_keys, neg, pos_keys, pos, overlap)


def _merge(binning: ScoreBinning, keys: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    coarse = COARSE.keys(binning.lower(keys)).astype(np.uint32)
    if coarse.size == 0:
        return coarse, *values
    starts = np.flatnonzero(np.append(True, coarse[1:] != coarse[:-1]))
    return coarse[starts], *(np.add.reduceat(v, starts) for v in values)


@dataclass(frozen=True)
class FieldRecord:
    """A scan's share of the pixel metrics of one field.

    Args:
        counts: coarse histograms.
        num_components: lesions that have a pixel in the field.
        tp: (T,) abnormal pixels above each given threshold.
        fp: (T,) normal pixels above each given threshold.
    """

    counts: FieldCounts
    num_components: int
    tp: np.ndarray
    fp: np.ndarray


@dataclass(frozen=True)
class FrocRecord:
    """A scan's lesions (key of each one's highest score) and the changes in its number of false positives."""

    lesion_keys: np.ndarray
    event_keys: np.ndarray
    changes: np.ndarray


@dataclass(frozen=True)
class ScanRecord:
    """All that is kept of a scan; ``fields`` is keyed by the suffix of the metrics' names."""

    name: str
    abnormal: bool | None
    image_score: float | None
    fields: Mapping[str, FieldRecord]
    froc: FrocRecord | None


def check_map(values: Any, name: str, scan: str) -> np.ndarray:
    """Bring a map to a C-ordered float32 array and check its values.

    Args:
        values: tensor on any device or array, 2D or 3D.
        name: the argument's name.
        scan: the scan's name.

    Raises:
        ValueError: not 2D or 3D, or a value is negative, infinite or NaN.
    """
    array = _to_numpy(values)
    if array.ndim not in (2, 3):
        raise ValueError(f"`{name}` must be 2D or 3D, got shape {array.shape} in scan '{scan}'. Drop the channel.")
    array = np.asarray(array, dtype=np.float32)
    low, high = (array.min(), array.max()) if array.size else (0.0, 0.0)
    if not (np.isfinite(high) and low >= 0):  # NaN is the minimum of whatever holds one
        raise ValueError(
            f"`{name}` must be finite and nonnegative, got values from {low} to {high} in scan '{scan}'. "
            "Shift or exponentiate scores that can be negative."
        )
    return array


def to_mask(values: Any, name: str, scan: str) -> np.ndarray:
    """Turn a tensor of any device, or anything array-like, into a Boolean array: nonzero is True.

    Args:
        values: of any shape.
        name: the argument's name.
        scan: the scan's name.

    Raises:
        ValueError: a value is NaN, which is neither.
    """
    array = _to_numpy(values)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"`{name}` must be free of NaN, got some in scan '{scan}'. Write 0 where nothing is marked.")
    return array if array.dtype == bool else array != 0


def to_class(value: Any, scan: str) -> bool | None:
    """Whether a scan is abnormal, from 0, 1 or a tensor of one of them; None stays None, for unknown.

    Raises:
        ValueError: anything else, which would count as abnormal: -1 and NaN stand for unknown in many tables.
    """
    if value is None:
        return None
    number = _to_number(value)
    if number not in (0, 1):
        raise ValueError(f"`abnormal` must be 0, 1 or None, got {value!r} in scan '{scan}'. None is unknown.")
    return bool(number)


def to_score(value: Any, scan: str) -> float:
    """A scan's score as a float, from a number or a tensor of one.

    Raises:
        ValueError: no number, or one that is infinite or NaN.
    """
    number = _to_number(value)
    if number is None or not np.isfinite(number):
        raise ValueError(f"`image_score` must be finite, got {value} in scan '{scan}'. Leave such a scan out.")
    return number


def _to_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # torch has the last one for several elements
        return None


def _to_numpy(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


@dataclass(frozen=True)
class Lesions:
    """Connected components of a mask: labels inside ``box``, and how many there are."""

    labels: np.ndarray
    number: int
    box: tuple[slice, ...]


def find_lesions(mask: np.ndarray | None, ndim: int) -> Lesions:
    """Label a mask; None is an empty one."""
    return Lesions(*label_components(np.zeros((0,) * ndim, bool) if mask is None else mask))


def count_fields(
    scores: np.ndarray,
    lesions: Lesions,
    foreground: np.ndarray | None,
    binning: ScoreBinning,
    thresholds: Mapping[str, np.ndarray],
) -> dict[str, tuple[FieldCounts, FieldRecord]]:
    """Count a scan's pixels over the whole field and, if given, inside the foreground.

    Args:
        scores: float32, 2D or 3D.
        lesions: from :func:`find_lesions`.
        foreground: boolean, same shape, or None.
        binning: bins of the pooled histograms.
        thresholds: per suffix (T,) thresholds at which true and false positives are counted.

    Returns:
        Per suffix (``""``, ``"_foreground"``) the histograms in ``binning`` and the record to keep.
    """
    positive = scores > 0
    everywhere = _count_scored(scores, positive, binning, thresholds[""])
    out = {"": _count_field(scores, lesions, None, everywhere, binning, thresholds[""])}
    if foreground is not None:
        # Background scores nothing as a rule; then the positive scores have been counted already.
        inside = positive & foreground
        if np.count_nonzero(inside) == everywhere.num_scored and np.array_equal(
            thresholds[""], thresholds["_foreground"]
        ):
            within = everywhere
        else:
            within = _count_scored(scores, inside, binning, thresholds["_foreground"])
        within = within.resized(int(np.count_nonzero(foreground)))
        out["_foreground"] = _count_field(scores, lesions, foreground, within, binning, thresholds["_foreground"])
    return out


@dataclass(frozen=True)
class _Scored:
    """Histogram of all positive scores of a field, its number of pixels, and how many exceed each threshold."""

    keys: np.ndarray
    counts: np.ndarray
    num_scored: int
    num_pixels: int
    above: np.ndarray

    def resized(self, num_pixels: int) -> _Scored:
        return _Scored(self.keys, self.counts, self.num_scored, num_pixels, self.above)


def _count_scored(scores: np.ndarray, inside: np.ndarray, binning: ScoreBinning, thresholds: np.ndarray) -> _Scored:
    keys, counts = count_scores(scores, inside, binning)
    above = sum((_count_above(scores[slab][inside[slab]], thresholds) for slab in slab_bounds(scores.shape)), start=0)
    return _Scored(keys, counts, int(counts.sum()), scores.size, np.asarray(above))


def _count_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return np.array([np.count_nonzero(values > t) for t in thresholds], dtype=np.int64)


def _count_field(
    scores: np.ndarray,
    lesions: Lesions,
    foreground: np.ndarray | None,
    scored: _Scored,
    binning: ScoreBinning,
    thresholds: np.ndarray,
) -> tuple[FieldCounts, FieldRecord]:
    inside = lesions.labels > 0
    if foreground is not None:
        inside &= foreground[lesions.box]
    labels, values = lesions.labels[inside], scores[lesions.box][inside]
    sizes = np.bincount(labels, minlength=lesions.number + 1)
    pixel_keys = binning.keys(values)
    pos_keys, pos = count_keys(pixel_keys)
    _, overlap = count_keys(pixel_keys, 1.0 / sizes[labels])
    keys = np.append(0, scored.keys)
    neg = np.append(scored.num_pixels - scored.num_scored, scored.counts)
    neg[np.searchsorted(keys, pos_keys)] -= pos
    counts = FieldCounts(keys[neg > 0], neg[neg > 0], pos_keys, pos, overlap)
    tp = _count_above(values, thresholds)
    record = FieldRecord(counts.coarsen(binning), int((sizes[1:] > 0).sum()), tp, scored.above - tp)
    return counts, record


def count_froc(scores: np.ndarray, lesions: Lesions) -> FrocRecord:
    """Find a scan's lesion peaks and false-positive events, see :mod:`monai_dpmm_ad.metrics.froc`."""
    mask = np.zeros(scores.shape, bool)
    peaks = np.zeros(0, np.float32)
    if lesions.number:
        mask[lesions.box] = lesions.labels > 0
        peaks = ndimage.maximum(scores[lesions.box], lesions.labels, np.arange(1, lesions.number + 1))
    events, changes = find_false_positive_events(_coarse_keys(scores), mask, overwrite=True)
    return FrocRecord(COARSE.keys(np.asarray(peaks)), events, changes)


def _coarse_keys(scores: np.ndarray) -> np.ndarray:
    """The keys of an image's scores as int32: int64 would take twice the memory of the scores."""
    keys = np.empty(scores.shape, np.int32)
    for slab in slab_bounds(scores.shape):
        keys[slab] = COARSE.keys(scores[slab])
    return keys
