# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Evaluate anomaly maps: all metrics, their intervals and curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_dpmm_ad.metrics import functional
from monai_dpmm_ad.metrics.accumulator import SUFFIXES, ScanAccumulator
from monai_dpmm_ad.metrics.bootstrap import compute_interval, sample_weights
from monai_dpmm_ad.metrics.curves import Curve, trace_froc, trace_pr, trace_roc
from monai_dpmm_ad.metrics.samples import FrocSample, ImageSample, PixelSample

__all__ = ["AnomalyMetrics"]


class AnomalyMetrics(ScanAccumulator):
    """Metrics of anomaly maps: image, pixel and lesion level, with bootstrap intervals over scans.

    Pixel metrics come twice: over the whole field, and with the suffix ``_foreground`` inside the foreground, if
    every evaluated scan has one. Metrics for which the data lack something (masks, a class) are absent.

    Args:
        normal_thresholds: false-positive rate → threshold found on normal *validation* pixels. If None, the
            thresholds of ``dice_fpr…`` come from the normal pixels of the evaluated scans themselves. A pixel is
            predicted abnormal if its score is *greater* than the threshold.
        normal_thresholds_foreground: the same for the metrics inside the foreground; ``normal_thresholds`` if None.
        exact: keep every distinct float32 score; otherwise histograms with 65 536 bins per octave, whose metrics differ
            from the exact ones by at most :meth:`compute_error_bounds`: less than 1e-3 if scores spread over at least
            3 % of their size.
        froc: evaluate lesion detection; by far the slowest metric for large volumes.
        fpr_limit: highest false-positive rate of AUPRO.

    Raises:
        ValueError: a rate or ``fpr_limit`` outside (0, 1].

    Example:
        >>> metrics = AnomalyMetrics()
        >>> for i in range(4):
        ...     lesion = np.zeros((8, 8), bool)
        ...     lesion[2:4, 2:4] = i % 2
        ...     metrics.update(f"scan{i}", score_map=0.1 + lesion, mask=lesion, image_score=float(lesion.max()))
        >>> values = metrics.compute(bootstrap=0)
        >>> values["pixel_auroc"], values["best_dice"], values["image_auroc"]
        (1.0, 1.0, 1.0)
    """

    def _samples(self) -> tuple[ImageSample | None, dict[str, PixelSample], FrocSample | None]:
        """Samples of which at least one metric can be computed."""
        records = [self._records[name] for name in self.names]
        chosen = [i for i, r in enumerate(records) if r.image_score is not None and r.abnormal is not None]
        image = ImageSample(
            np.array([records[i].image_score for i in chosen], dtype=np.float64),
            np.array([records[i].abnormal for i in chosen], dtype=bool),
            np.array(chosen, dtype=np.int64),
        )
        mapped = [i for i, r in enumerate(records) if "" in r.fields]
        pixels = {}
        for suffix in SUFFIXES:
            if mapped and all(suffix in records[i].fields for i in mapped):
                fields = [records[i].fields[suffix] for i in mapped]
                keys, totals = self._pooled[suffix].result()
                sample = PixelSample(fields, np.array(mapped), keys, totals, self.rates, self.given, self.fpr_limit)
                if sample.complete:
                    pixels[suffix] = sample
        lesions = [(i, r.froc) for i, r in enumerate(records) if r.froc is not None]
        froc = FrocSample([r for _, r in lesions], np.array([i for i, _ in lesions])) if lesions else None
        return (image if image.complete else None), pixels, (froc if froc is not None and froc.complete else None)

    def _weights(self, bootstrap: int, seed: int) -> np.ndarray:
        classes = {None: 0, False: 1, True: 2}
        strata = [classes[self._records[name].abnormal] for name in self.names]
        return sample_weights(strata, bootstrap, seed)

    def compute(self, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Compute all metrics that the data allow.

        Args:
            bootstrap: number of replicates; 0 for no intervals.
            seed: of the replicates.

        Returns:
            ``image_auroc image_aupr pixel_auroc pixel_aupr aupro best_dice dice_fpr10 dice_fpr05 dice_fpr01 froc``,
            pixel metrics also with the suffix ``_foreground``; for each a 95 % interval ``KEY_ci = [low, high]``. No
            intervals if a class has a single scan.
        """
        image, pixels, froc = self._samples()
        weights = self._weights(bootstrap, seed)
        metrics: dict[str, float] = {}
        replicates: dict[str, np.ndarray] = {}
        if image is not None:
            metrics |= {key: float(value[0]) for key, value in image.compute_metrics(image.counts()).items()}
            replicates |= image.compute_metrics(image.resample(weights))
        for suffix, sample in pixels.items():
            metrics |= {key + suffix: value for key, value in sample.compute().items()}
            if len(weights):
                replicates |= {key + suffix: value for key, value in sample.resample(weights)[1].items()}
        if froc is not None:
            metrics |= {key: float(value[0]) for key, value in froc.compute_metrics([froc.curve()]).items()}
            replicates |= froc.compute_metrics(froc.resample(weights))
        out: dict[str, Any] = {}
        for key, value in metrics.items():
            if np.isnan(value):
                continue
            out[key] = value
            interval = compute_interval(replicates[key]) if key in replicates else None
            if interval is not None:
                out[key + "_ci"] = interval
        return out

    def compute_error_bounds(self) -> dict[str, float]:
        """Bound the error that binning may have made, per pixel metric; all 0 with ``exact=True``.

        The bounds hold whatever the scores' order inside their bins. ``dice_fpr…`` at given thresholds are exact.
        """
        out = {}
        for suffix, sample in self._samples()[1].items():
            components = int(sample.num_components.sum())
            bounds = functional.compute_error_bounds(sample.pos, sample.neg, sample.overlap, components, self.fpr_limit)
            names = {"auroc": "pixel_auroc", "aupr": "pixel_aupr"}
            for key, value in bounds.items():
                out[names.get(key, key) + suffix] = 0.0 if self.exact else value
        return out

    def curves(self, bootstrap: int = 200, seed: int = 0) -> dict[str, Curve]:
        """Trace ROC, precision-recall and FROC curves for a report.

        Args:
            bootstrap: replicates for the band; 0 for none.
            seed: of the replicates.

        Returns:
            ``image_roc image_pr pixel_roc pixel_pr pixel_roc_foreground pixel_pr_foreground froc``, as far as the
            data allow; see :class:`Curve`.
        """
        image, pixels, froc = self._samples()
        weights = self._weights(bootstrap, seed)
        out: dict[str, Curve] = {}
        if image is not None:
            out["image_roc"] = trace_roc(image.counts(), image.resample(weights))
            out["image_pr"] = trace_pr(image.counts(), image.resample(weights))
        for suffix, sample in pixels.items():
            replicates = sample.resample(weights)[0] if len(weights) else None
            out["pixel_roc" + suffix] = trace_roc(sample.counts(), replicates)
            out["pixel_pr" + suffix] = trace_pr(sample.counts(), replicates)
        if froc is not None:
            out["froc"] = trace_froc(froc.curve(), froc.resample(weights))
        return out
