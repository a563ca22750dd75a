# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Slow oracles of the metrics: one loop over thresholds, nothing clever."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, structure=np.ones((3,) * mask.ndim))


def best_dice(labels: np.ndarray, scores: np.ndarray) -> float:
    """Highest Dice of ``scores ≥ t`` over all distinct scores t."""
    return max(dice(labels, scores >= t) for t in np.unique(scores))


def dice(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Dice of two masks."""
    return 2.0 * np.sum(labels & predicted) / (labels.sum() + predicted.sum())


def threshold_at_fpr(normal_scores: np.ndarray, rate: float) -> float:
    """Smallest score t with mean(normal_scores > t) ≤ rate."""
    return min(t for t in np.unique(normal_scores) if np.mean(normal_scores > t) <= rate)


def aupro(masks: list[np.ndarray], maps: list[np.ndarray], valid: list[np.ndarray], limit: float) -> float:
    """Per-region overlap integrated over the false-positive rate, one threshold after the other."""
    thresholds = np.unique(np.concatenate([m[v] for m, v in zip(maps, valid, strict=True)]))[::-1]
    rates, overlaps = [0.0], [0.0]
    for t in thresholds:
        false, normal, shares = 0, 0, []
        for mask, score, inside in zip(masks, maps, valid, strict=True):
            predicted = (score >= t) & inside
            false += np.sum(predicted & ~mask)
            normal += np.sum(inside & ~mask)
            labels, number = _label(mask)
            for i in range(1, number + 1):
                region = (labels == i) & inside
                if region.any():
                    shares.append(np.sum(predicted & region) / region.sum())
        rates.append(false / normal)
        overlaps.append(float(np.mean(shares)))
    area = 0.0
    for i in range(len(rates) - 1):
        x0, x1, y0, y1 = rates[i], rates[i + 1], overlaps[i], overlaps[i + 1]
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def froc(masks: list[np.ndarray], maps: list[np.ndarray], thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of detected lesions, and the most false positives per scan at this or a higher threshold."""
    sensitivity, false_positives = [], []
    for t in np.sort(thresholds)[::-1]:
        found = lesions = false = 0
        for mask, score in zip(masks, maps, strict=True):
            labels, number = _label(mask)
            lesions += number
            found += sum(score[labels == i].max() >= t for i in range(1, number + 1))
            # Lesion voxels link whatever touches them; such components are no false positives.
            parts, count = _label((score >= t) | mask)
            # All lesions count as one always-present object, so a component is false if no lesion voxel is in it.
            false += sum(not mask[parts == i].any() for i in range(1, count + 1))
        sensitivity.append(found / lesions)
        false_positives.append(false / len(maps))
    return np.array(sensitivity), np.maximum.accumulate(false_positives)
