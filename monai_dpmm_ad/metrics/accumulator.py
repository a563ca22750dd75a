# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Take in anomaly maps scan by scan, in memory that does not grow with the number of pixels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_dpmm_ad.metrics.records import (
    ScanRecord,
    check_map,
    count_fields,
    count_froc,
    find_lesions,
    to_class,
    to_mask,
    to_score,
)
from monai_dpmm_ad.ops.histogram import EXACT, FINE, SparseSum
from monai_dpmm_ad.utils.distributed import gather_lists, get_world_size

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FPR_RATES", "SUFFIXES", "ScanAccumulator"]

FPR_RATES = (0.10, 0.05, 0.01)
SUFFIXES = ("", "_foreground")


class ScanAccumulator:
    """Take scans in, keep their histograms, and bring those of several processes together.

    Args and errors are those of :class:`monai_dpmm_ad.metrics.AnomalyMetrics`.
    """

    def __init__(
        self,
        normal_thresholds: Mapping[float, float] | None = None,
        normal_thresholds_foreground: Mapping[float, float] | None = None,
        exact: bool = False,
        froc: bool = True,
        fpr_limit: float = 0.3,
    ) -> None:
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"`fpr_limit` must lie in (0, 1], got {fpr_limit}. AUPRO is published with 0.3.")
        if normal_thresholds is None and normal_thresholds_foreground is not None:
            raise ValueError("`normal_thresholds` must be given with `normal_thresholds_foreground`, got None.")
        self.given = normal_thresholds is not None
        whole = dict(normal_thresholds or {})
        inside = whole if normal_thresholds_foreground is None else dict(normal_thresholds_foreground)
        if sorted(whole) != sorted(inside):
            raise ValueError(
                f"`normal_thresholds_foreground` must have the rates {sorted(whole)}, got {sorted(inside)}. "
                "Give one threshold per rate and field."
            )
        self.rates = tuple(sorted(whole, reverse=True)) if self.given else FPR_RATES
        if not all(0 < rate < 1 for rate in self.rates):
            raise ValueError(f"`normal_thresholds` must map rates in (0, 1) to thresholds, got rates {self.rates}.")
        self._thresholds = {
            suffix: np.array([table[rate] for rate in self.rates] if self.given else [], dtype=np.float32)
            for suffix, table in zip(SUFFIXES, (whole, inside), strict=True)
        }
        self.exact, self.froc, self.fpr_limit = exact, froc, fpr_limit
        self._binning = EXACT if exact else FINE
        self.reset()

    def reset(self) -> None:
        """Forget all scans."""
        self._records: dict[str, ScanRecord] = {}
        self._pooled = {suffix: SparseSum(width=3) for suffix in SUFFIXES}

    def __len__(self) -> int:
        return len(self._records)

    def count_scans(self) -> dict[str, int]:
        """Count the scans: ``num_scans``, and of these ``num_abnormal``."""
        return {"num_scans": len(self), "num_abnormal": sum(bool(r.abnormal) for r in self._records.values())}

    @property
    def names(self) -> list[str]:
        """The scans' names in alphabetical order, which is the order of all computations."""
        return sorted(self._records)

    def update(
        self,
        name: str,
        score_map: Any = None,
        mask: Any = None,
        foreground: Any = None,
        image_score: float | None = None,
        abnormal: bool | int | None = None,
    ) -> None:
        """Add one scan (a volume, or an image of a 2D data set).

        Args:
            name: unique name; what is no text is written as one.
            score_map: (H, W) or (H, W, D), finite, nonnegative, higher = more anomalous; tensor or array.
            mask: same shape, nonzero = abnormal. None is unknown, unless ``abnormal`` is 0: then nothing is abnormal.
            foreground: same shape, nonzero = foreground.
            image_score: the scan's score.
            abnormal: the scan's class, 0 or 1; taken from ``mask`` if None.

        Raises:
            ValueError: a name that was seen, shapes that differ, values that cannot be scores, a mask with NaN, or one
                that is not empty in a scan with ``abnormal`` = 0.
        """
        name = str(name)
        if name in self._records:
            raise ValueError(f"`name` must be unique, got '{name}' twice. Evaluate each scan once.")
        scores = None if score_map is None else check_map(score_map, "score_map", name)
        given = {"mask": mask, "foreground": foreground}
        arrays = {key: None if value is None else to_mask(value, key, name) for key, value in given.items()}
        for key, array in arrays.items():
            if array is not None and scores is not None and array.shape != scores.shape:
                raise ValueError(
                    f"`{key}` must have the map's shape {scores.shape}, got {array.shape} in scan '{name}'. "
                    "Evaluate map and mask on the same grid."
                )
        score, status = None if image_score is None else to_score(image_score, name), to_class(abnormal, name)
        lesion = arrays["mask"] is not None and bool(arrays["mask"].any())
        if status is False and lesion:
            raise ValueError(
                f"`mask` must be empty where `abnormal` is 0, got abnormal pixels in scan '{name}'. Check its class."
            )
        if status is None and arrays["mask"] is not None:
            status = lesion
        fields, froc = {}, None
        if scores is not None and (arrays["mask"] is not None or status is False):
            fields, froc = self._count(scores, arrays["mask"], arrays["foreground"])
        self._records[name] = ScanRecord(name, status, score, fields, froc)

    def _count(self, scores: np.ndarray, mask: np.ndarray | None, foreground: np.ndarray | None) -> Any:
        if not scores.flags.c_contiguous and scores.flags.f_contiguous:
            # NIfTI readers give Fortran order; the metrics do not care, boolean indexing does.
            scores = scores.T
            mask, foreground = (None if a is None else a.T for a in (mask, foreground))
        lesions = find_lesions(mask, scores.ndim)
        counted = count_fields(scores, lesions, foreground, self._binning, self._thresholds)
        for suffix, (counts, _) in counted.items():
            zeros = np.zeros_like(counts.neg)
            self._pooled[suffix].add(counts.neg_keys, np.stack([counts.neg, zeros, zeros], axis=1))
            zeros = np.zeros_like(counts.overlap)
            self._pooled[suffix].add(counts.pos_keys, np.stack([zeros, counts.pos, counts.overlap], axis=1))
        froc = count_froc(scores, lesions) if self.froc else None
        return {suffix: record for suffix, (_, record) in counted.items()}, froc

    def state(self) -> dict[str, Any]:
        """Everything accumulated so far, as arrays and plain objects that can be sent to another process."""
        return {
            "settings": self._settings(),
            "records": [self._records[name] for name in self.names],
            "pooled": {suffix: self._pooled[suffix].result() for suffix in SUFFIXES},
        }

    def _settings(self) -> tuple[Any, ...]:
        thresholds = tuple(tuple(self._thresholds[suffix].tolist()) for suffix in SUFFIXES)
        return (self.exact, self.froc, self.fpr_limit, self.rates, thresholds)

    def merge(self, other: ScanAccumulator | Mapping[str, Any]) -> None:
        """Add the scans of another instance, or of its :meth:`state`.

        Raises:
            ValueError: other settings, or a scan that both have.
        """
        state = other.state() if isinstance(other, ScanAccumulator) else other
        if state["settings"] != self._settings():
            raise ValueError(f"`other` must have the settings {self._settings()}, got {state['settings']}.")
        twice = sorted({record.name for record in state["records"]} & set(self._records))
        if twice:
            raise ValueError(
                f"`other` must hold other scans, got {', '.join(twice)} again. Give the distributed sampler "
                "`even_divisible=False`, so that no process repeats a scan."
            )
        self._records.update({record.name: record for record in state["records"]})
        for suffix, (keys, values) in state["pooled"].items():
            self._pooled[suffix].add(keys, values)

    def gather(self) -> Self:
        """Return the metrics of all processes together (self if ``torch.distributed`` is not in use)."""
        if get_world_size() == 1:
            return self
        out = copy.copy(self)
        out.reset()
        for state in gather_lists([self.state()]):
            out.merge(state)
        return out
