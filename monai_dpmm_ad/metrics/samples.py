# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From the records of many scans to metrics, bootstrap replicates of metrics, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_dpmm_ad.metrics import functional
from monai_dpmm_ad.metrics.bootstrap import group_bins, sum_replicates
from monai_dpmm_ad.metrics.froc import FROC_BUDGETS, compute_froc, compute_sensitivities
from monai_dpmm_ad.metrics.records import FieldRecord, FrocRecord

__all__ = ["FrocSample", "ImageSample", "PixelSample", "Replicates", "dice_key"]

MAX_GROUPS = 2048  # bins of a bootstrap replicate; each holds about 1/2048 of either class
MAX_FROC_THRESHOLDS = 512


def dice_key(rate: float) -> str:
    """Name of the Dice at a false-positive rate: 0.05 → ``dice_fpr05``, 0.001 → ``dice_fpr00_1``."""
    whole, _, part = f"{rate * 100:.10f}".rstrip("0").partition(".")
    return f"dice_fpr{whole:0>2}" + f"_{part}" * bool(part)


@dataclass(frozen=True)
class Replicates:
    """Positives and negatives per group of bins, (R, b) each, ascending score."""

    pos: np.ndarray
    neg: np.ndarray


class ImageSample:
    """One score and one class per scan.

    Args:
        scores: (n,) float64.
        abnormal: (n,) boolean.
        index: (n,) the scans' columns in the bootstrap weights.
    """

    def __init__(self, scores: np.ndarray, abnormal: np.ndarray, index: np.ndarray) -> None:
        self.abnormal, self.index = abnormal, index
        self.distinct, self.bins = np.unique(scores, return_inverse=True)

    @property
    def complete(self) -> bool:
        """Whether both classes occur."""
        return bool(self.abnormal.any() and not self.abnormal.all())

    def counts(self) -> Replicates:
        """The sample itself, as a single replicate."""
        return self.resample(np.ones((1, int(self.index.max(initial=-1)) + 1)))

    def resample(self, weights: np.ndarray) -> Replicates:
        """Counts per distinct score in each replicate of ``weights`` (R, scans)."""
        order = np.argsort(self.bins, kind="stable")
        starts = np.searchsorted(self.bins[order], np.arange(self.distinct.size))
        drawn = weights[:, self.index[order]]
        pos = np.add.reduceat(drawn * self.abnormal[order], starts, axis=1)
        return Replicates(pos, np.add.reduceat(drawn, starts, axis=1) - pos)

    @staticmethod
    def compute_metrics(counts: Replicates) -> dict[str, np.ndarray]:
        """AUROC and AUPR of each replicate, (R,)."""
        return {
            "image_auroc": functional.compute_auroc(counts.pos, counts.neg),
            "image_aupr": functional.compute_average_precision(counts.pos, counts.neg),
        }


class PixelSample:
    """The scans' pixels of one field.

    Args:
        records: per scan.
        index: (n,) the scans' columns in the bootstrap weights.
        keys: (m,) pooled bins, ascending.
        totals: (m, 3) pooled negatives, positives and overlaps per bin.
        rates: false-positive rates of the Dice metrics.
        given: whether the records hold counts at given thresholds, one per rate.
        limit: highest false-positive rate of AUPRO.
    """

    def __init__(
        self,
        records: Sequence[FieldRecord],
        index: np.ndarray,
        keys: np.ndarray,
        totals: np.ndarray,
        rates: Sequence[float],
        given: bool,
        limit: float,
    ) -> None:
        self.records, self.index, self.keys = records, index, keys
        self.neg, self.pos, self.overlap = totals[:, 0], totals[:, 1], totals[:, 2]
        self.rates, self.given, self.limit = rates, given, limit
        self.num_components = np.array([r.num_components for r in records], dtype=np.float64)

    @property
    def complete(self) -> bool:
        """Whether both classes occur."""
        return bool(self.neg.sum() and self.pos.sum())

    def counts(self) -> Replicates:
        """The sample itself, in the pooled bins."""
        return Replicates(self.pos, self.neg)

    def compute(self) -> dict[str, float]:
        """Metrics of the sample itself."""
        metrics = self._compute_metrics(
            self.counts(), self.overlap, self.num_components.sum(), np.ones(len(self.records))
        )
        return {key: float(value) for key, value in metrics.items()}

    def resample(self, weights: np.ndarray) -> tuple[Replicates, dict[str, np.ndarray]]:
        """Counts and metrics of each replicate of ``weights`` (R, scans)."""
        weights = weights[:, self.index]
        edges = self._edges()
        counts = [r.counts for r in self.records]
        pos = sum_replicates(weights, [(c.pos_keys, c.pos) for c in counts], edges)
        neg = sum_replicates(weights, [(c.neg_keys, c.neg) for c in counts], edges)
        overlap = sum_replicates(weights, [(c.pos_keys, c.overlap) for c in counts], edges)
        replicates = Replicates(pos, neg)
        return replicates, self._compute_metrics(replicates, overlap, weights @ self.num_components, weights)

    def _edges(self) -> np.ndarray:
        """Smallest coarse key of each group of a replicate's bins."""
        counts = [r.counts for r in self.records]
        keys = np.concatenate([k for c in counts for k in (c.pos_keys, c.neg_keys)])
        mass = np.concatenate([m for c in counts for m in (c.pos / self.pos.sum(), c.neg / self.neg.sum())])
        total = np.bincount(keys, mass)
        present = np.unique(keys)
        return present[group_bins(total[present] / 2, MAX_GROUPS)]

    def _compute_metrics(
        self, counts: Replicates, overlap: np.ndarray, num_components: np.ndarray, weights: np.ndarray
    ) -> dict[str, np.ndarray]:
        pos, neg = counts.pos, counts.neg
        metrics = {
            "pixel_auroc": functional.compute_auroc(pos, neg),
            "pixel_aupr": functional.compute_average_precision(pos, neg),
            "aupro": functional.compute_aupro(overlap, neg, num_components, self.limit),
            "best_dice": functional.compute_best_dice(pos, neg)[0],
        }
        if self.given:
            tp = weights @ np.stack([r.tp for r in self.records])
            fp = weights @ np.stack([r.fp for r in self.records])
        for j, rate in enumerate(self.rates):
            if self.given:
                metrics[dice_key(rate)] = functional.compute_dice(tp[..., j], fp[..., j], pos.sum(-1))
            else:
                metrics[dice_key(rate)] = functional.compute_dice_at_fpr(pos, neg, rate)
        return metrics


class FrocSample:
    """The scans' lesions and false positives.

    Args:
        records: per scan.
        index: (n,) the scans' columns in the bootstrap weights.
    """

    def __init__(self, records: Sequence[FrocRecord], index: np.ndarray) -> None:
        self.records, self.index = records, index
        self.num_lesions = np.array([r.lesion_keys.size for r in records], dtype=np.float64)

    @property
    def complete(self) -> bool:
        """Whether there is a lesion to detect."""
        return bool(self.num_lesions.sum())

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Sensitivity and false positives per scan at every threshold, descending."""
        _, sensitivity, false_positives = compute_froc(*self._pooled(), len(self.records))
        return sensitivity, false_positives

    def _pooled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        names = ("event_keys", "changes", "lesion_keys")
        columns = [np.concatenate([getattr(r, name) for r in self.records]) for name in names]
        return columns[0], columns[1], columns[2]

    def resample(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Curve of each replicate of ``weights`` (R, scans), at no more than 512 thresholds."""
        thresholds = compute_froc(*self._pooled(), len(self.records))[0]
        pick = np.unique(np.linspace(0, thresholds.size - 1, MAX_FROC_THRESHOLDS).astype(int))
        thresholds = thresholds[pick] if thresholds.size else thresholds  # none where all maps are 0
        false_positives = np.zeros((len(self.records), thresholds.size))
        found = np.zeros_like(false_positives)
        for i, record in enumerate(self.records):
            totals = np.append(0, np.cumsum(record.changes[::-1]))
            steps = np.searchsorted(-record.event_keys[::-1], -thresholds, side="right")
            false_positives[i] = totals[steps]
            found[i] = np.searchsorted(np.sort(-record.lesion_keys), -thresholds, side="right")
        weights = weights[:, self.index]
        lesions = np.maximum(weights @ self.num_lesions, 1)[:, None]
        per_scan = np.maximum.accumulate(weights @ false_positives, axis=1) / weights.sum(1, keepdims=True)
        return list(zip(weights @ found / lesions, per_scan, strict=True))

    @staticmethod
    def compute_metrics(sample: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        """Mean sensitivity over the LUNA16 budgets (1/8 … 8 false positives per scan) of each curve, (R,)."""
        return {"froc": np.array([compute_sensitivities(*curve, FROC_BUDGETS).mean() for curve in sample])}
