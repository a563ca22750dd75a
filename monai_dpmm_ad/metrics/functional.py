# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Metrics from counts per score bin.

Everything here works on two arrays of shape ``(..., n)``: how many positives (``pos``) and negatives (``neg``) fall
into each of n bins in *ascending* order of score; leading dimensions are bootstrap replicates. Scores of one bin are
ties and are treated as scikit-learn treats ties. With one bin per distinct score the metrics are exact. Where a class
is empty the metric is NaN; callers leave it out.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "compute_aupro",
    "compute_auroc",
    "compute_average_precision",
    "compute_best_dice",
    "compute_dice",
    "compute_dice_at_fpr",
    "compute_error_bounds",
    "find_fpr_bin",
    "sweep",
]


def sweep(counts: np.ndarray) -> np.ndarray:
    """Sum counts from the highest bin downwards: (..., n) → (..., n + 1), beginning with 0 (nothing predicted)."""
    counts = np.asarray(counts, dtype=np.float64)
    out = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1))
    np.cumsum(counts[..., ::-1], axis=-1, out=out[..., 1:])
    return out


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(numerator, denominator)


def compute_auroc(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: the probability that a positive outscores a negative, ties counting one half.

    Args:
        pos: (..., n), positives per bin, ascending score.
        neg: (..., n), negatives per bin.

    Returns:
        (...), in [0, 1].
    """
    tp = sweep(pos)
    falls = np.asarray(neg, dtype=np.float64)[..., ::-1]
    area = (falls * (tp[..., 1:] + tp[..., :-1])).sum(-1) / 2
    return _ratio(area, tp[..., -1] * falls.sum(-1))


def compute_average_precision(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve as average precision: ``Σ (R_i − R_{i−1}) P_i``, no interpolation.

    Args:
        pos: (..., n), positives per bin, ascending score.
        neg: (..., n), negatives per bin.

    Returns:
        (...), in [0, 1].
    """
    tp, fp = sweep(pos)[..., 1:], sweep(neg)[..., 1:]
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    gains = np.asarray(pos, dtype=np.float64)[..., ::-1]
    return _ratio((gains * precision).sum(-1), tp[..., -1])


def compute_best_dice(pos: np.ndarray, neg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest Dice over all thresholds, of all pixels together: ``max_t 2 TP / (P + TP + FP)``.

    Args:
        pos: (..., n), positives per bin, ascending score.
        neg: (..., n), negatives per bin.

    Returns:
        The Dice (...), and the index (...) of the lowest bin that is predicted positive.
    """
    dice = compute_dice(sweep(pos)[..., 1:], sweep(neg)[..., 1:], np.asarray(pos).sum(-1, keepdims=True))
    steps = np.where(np.isnan(dice), -1, dice).argmax(-1)
    best = np.take_along_axis(dice, steps[..., None], axis=-1)[..., 0]
    return best, dice.shape[-1] - 1 - steps


def compute_dice(tp: np.ndarray, fp: np.ndarray, num_pos: np.ndarray) -> np.ndarray:
    """Dice from counts, ``2 TP / (P + TP + FP)``; NaN without positives."""
    return np.where(np.asarray(num_pos) > 0, _ratio(2.0 * np.asarray(tp), np.asarray(num_pos) + tp + fp), np.nan)


def find_fpr_bin(neg: np.ndarray, rate: float) -> np.ndarray:
    """Find the lowest bin k such that the share of negatives above k is at most ``rate``.

    Args:
        neg: (..., n), negatives per bin, ascending score.
        rate: false-positive rate in (0, 1).

    Returns:
        (...), k in 0 … n − 1; ``score > upper edge of bin k`` is the prediction.
    """
    fp = sweep(neg)
    # fp[j] counts the j highest bins, so predicting them leaves bin n − 1 − j as the highest one that is negative.
    allowed = (fp[..., :-1] <= rate * fp[..., -1:]).sum(-1)
    return fp.shape[-1] - 1 - allowed


def compute_dice_at_fpr(pos: np.ndarray, neg: np.ndarray, rate: float) -> np.ndarray:
    """Dice at the threshold that ``rate`` of these very negatives exceed, (...)."""
    tp, fp = sweep(pos), sweep(neg)
    steps = (tp.shape[-1] - 2 - find_fpr_bin(neg, rate))[..., None]
    tp_at = np.take_along_axis(tp, steps, axis=-1)[..., 0]
    fp_at = np.take_along_axis(fp, steps, axis=-1)[..., 0]
    return compute_dice(tp_at, fp_at, tp[..., -1])


def compute_aupro(overlap: np.ndarray, neg: np.ndarray, num_components: np.ndarray, limit: float = 0.3) -> np.ndarray:
    """Normalised area under the per-region-overlap curve up to a false-positive rate.

    The overlap at a threshold is the mean over lesions (connected components) of the detected share of each, so that
    a small lesion counts as much as a large one. Between thresholds the curve is linear.

    Args:
        overlap: (..., n), per bin the sum over lesions of (the lesion's voxels in the bin) / (its size).
        neg: (..., n), negatives per bin, ascending score.
        num_components: (...), number of lesions.
        limit: highest false-positive rate, in (0, 1].

    Returns:
        (...), in [0, 1].

    Reference:
        Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", section 5.2.
    """
    found, fp = sweep(overlap), sweep(neg)
    step = np.diff(fp, axis=-1)
    width = np.clip(limit * fp[..., -1:] - fp[..., :-1], 0, step)
    slope = np.divide(np.diff(found, axis=-1), step, out=np.zeros_like(step), where=step > 0)
    area = (width * (found[..., :-1] + slope * width / 2)).sum(-1)
    return _ratio(area, limit * fp[..., -1] * num_components)


def compute_error_bounds(
    pos: np.ndarray, neg: np.ndarray, overlap: np.ndarray, num_components: int, limit: float = 0.3
) -> dict[str, float]:
    """Bound how far metrics from binned scores can be from those of the scores themselves.

    The bounds hold for every way in which the scores may be ordered inside their bins. If they really are tied there,
    the error is 0 whatever the bound.

    Args:
        pos: (n,), positives per bin, ascending score.
        neg: (n,), negatives per bin.
        overlap: (n,), see :func:`compute_aupro`.
        num_components: number of lesions.
        limit: see :func:`compute_aupro`.

    Returns:
        Largest possible absolute error of ``auroc``, ``aupr``, ``best_dice`` and ``aupro``; without positives or
        negatives an empty dict.
    """
    tp, fp, found = sweep(pos), sweep(neg), sweep(overlap)
    num_pos, num_neg = tp[-1], fp[-1]
    if num_pos == 0 or num_neg == 0:
        return {}
    rise, fall = np.diff(tp), np.diff(fp)
    before = tp[:-1] + fp[:-1]
    # Precision at each positive of a bin: highest with the bin's negatives last, lowest with them first.
    high = rise * np.divide(tp[1:], before + rise, out=np.zeros_like(rise), where=rise > 0)
    low = rise * np.divide(tp[:-1] + 1, before + fall + 1)
    ap = compute_average_precision(pos, neg) * num_pos
    best = (2 * tp[1:] / (num_pos + before + rise)).max()
    cut = np.clip(limit * num_neg - fp[:-1], 0, fall)
    bounds = {
        "auroc": (rise * fall).sum() / (2 * num_pos * num_neg),
        "aupr": max(high.sum() - ap, ap - np.minimum(low, high).sum()) / num_pos,
        "best_dice": best - compute_best_dice(pos, neg)[0],
    }
    if num_components:
        bounds["aupro"] = (cut * np.diff(found)).sum() / (limit * num_neg * num_components)
    return {key: float(value) for key, value in bounds.items()}
