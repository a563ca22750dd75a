# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Points of ROC, precision-recall and FROC curves with bootstrap bands for a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from monai_dpmm_ad.metrics.functional import sweep
from monai_dpmm_ad.metrics.samples import Replicates

__all__ = ["Curve", "trace_froc", "trace_pr", "trace_roc"]

# Dense where pixel curves happen: near 0.
_FPR = np.unique(np.concatenate([[0.0], np.logspace(-4, 0, 150), np.linspace(0, 1, 101)]))
_RECALL = np.linspace(0, 1, 201)
_FP_PER_SCAN = np.concatenate([[0.0], np.logspace(-4, 3, 141, base=2)])


@dataclass(frozen=True)
class Curve:
    """A curve of at most 500 points; ``low`` and ``high`` bound the 95 % pointwise band, None without replicates."""

    x: list[float]
    y: list[float]
    low: list[float] | None
    high: list[float] | None
    x_label: str
    y_label: str


def trace_roc(counts: Replicates, replicates: Replicates | None) -> Curve:
    """Trace sensitivity against the false-positive rate; between thresholds the line is straight."""
    return _trace(counts, replicates, _FPR, _roc, "False-positive rate", "Sensitivity")


def trace_pr(counts: Replicates, replicates: Replicates | None) -> Curve:
    """Trace precision at the first threshold that reaches each recall."""
    return _trace(counts, replicates, _RECALL, _precision, "Recall", "Precision")


def trace_froc(curve: tuple[np.ndarray, np.ndarray], replicates: Sequence[tuple[np.ndarray, np.ndarray]]) -> Curve:
    """Trace the share of detected lesions against false positives per scan, from (sensitivity, FP) pairs."""
    labels = ("False positives per scan", "Detected lesions")
    return _band(_FP_PER_SCAN, _step(*curve), (_step(*one) for one in replicates), *labels)


def _step(sensitivity: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    return np.append(0.0, sensitivity)[np.searchsorted(false_positives, _FP_PER_SCAN, side="right")]


def _roc(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    x, y = fp / fp[-1], tp / tp[-1]
    # At a vertical rise the curve passes through the upper end; interpolation wants one y per x.
    upper = np.append(x[1:] > x[:-1], True)
    return np.interp(_FPR, x[upper], y[upper])


def _precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    some = np.flatnonzero(tp + fp > 0)
    precision = tp[some] / (tp[some] + fp[some])
    steps = np.searchsorted(tp[some], np.maximum(_RECALL * tp[-1], 1e-12) - 1e-9 * tp[-1], side="left")
    return precision[np.minimum(steps, precision.size - 1)]


def _trace(
    counts: Replicates,
    replicates: Replicates | None,
    grid: np.ndarray,
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x_label: str,
    y_label: str,
) -> Curve:
    y = function(sweep(counts.pos).reshape(-1), sweep(counts.neg).reshape(-1))
    rows: Iterable[np.ndarray] = ()
    if replicates is not None:
        tp, fp = sweep(replicates.pos), sweep(replicates.neg)
        rows = (function(a, b) for a, b in zip(tp, fp, strict=True) if a[-1] > 0 and b[-1] > 0)
    return _band(grid, y, rows, x_label, y_label)


def _band(x: np.ndarray, y: np.ndarray, rows: Iterable[np.ndarray], x_label: str, y_label: str) -> Curve:
    table = list(rows)
    low = high = None
    if len(table) > 1:
        low, high = (edge.tolist() for edge in np.quantile(np.stack(table), [0.025, 0.975], axis=0))
    return Curve(x.tolist(), y.tolist(), low, high, x_label, y_label)
