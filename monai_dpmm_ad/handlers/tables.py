# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Collect what an evaluator says of each scan, and write it as tables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys

from monai_dpmm_ad.engines import ScanEvaluator, finished_scans
from monai_dpmm_ad.files import write_csv
from monai_dpmm_ad.lesions import Lesion, compute_lesions, write_lesions
from monai_dpmm_ad.scans import write_failures

__all__ = ["ScanRow", "ScanTable"]

COLUMNS = ("name", "image", "score", "p_value", "threshold", "flagged", "flagged_unit", "num_lesions", "abnormal")


@dataclass(frozen=True)
class ScanRow:
    """One line of ``scores.csv``; ``flagged`` is a volume in mL, or an area in pixels for a picture."""

    name: str
    image: str
    score: float
    p_value: float | None
    threshold: float | None
    flagged: float | None
    flagged_unit: str
    num_lesions: int | None
    abnormal: int | None


class ScanTable:
    """Write ``scores.csv``, ``lesions.csv``, ``lesions.json`` and, where a scan failed, ``failures.csv``.

    Args:
        output_dir: folder of the tables.
        min_lesion_volume: smallest connected component that counts as a lesion, in mm³ (pixels for a picture).
    """

    def __init__(self, output_dir: str | os.PathLike[str], min_lesion_volume: float = 0.0) -> None:
        self.output_dir = Path(output_dir)
        self.min_lesion_volume = min_lesion_volume
        self.rows: list[ScanRow] = []
        self.lesions: dict[str, list[Lesion]] = {}

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.rows.clear()
        self.lesions.clear()

    def _update(self, engine: Engine) -> None:
        for scan in finished_scans(engine):
            row, lesions = self._describe(scan)
            self.rows.append(row)
            if lesions is not None:
                self.lesions[row.name] = lesions

    def _describe(self, scan: dict[str, Any]) -> tuple[ScanRow, list[Lesion] | None]:
        pred = scan[CommonKeys.PRED]
        lesions, flagged, unit = None, None, "mL"
        if "mask" in scan:
            mask, affine = _to_array(scan["mask"]) > 0, np.asarray(pred.meta["original_affine"])
            lesions = compute_lesions(mask, _to_array(pred), affine, self.min_lesion_volume)
            if mask.ndim == 2:
                flagged, unit = float(mask.sum()), "pixels"
            else:
                flagged = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
        row = ScanRow(
            name=pred.meta["name"],
            image=str(pred.meta["filename_or_obj"]),
            score=scan["score"],
            p_value=scan.get("p_value"),
            threshold=scan.get("threshold"),
            flagged=flagged,
            flagged_unit=unit,
            num_lesions=None if lesions is None else len(lesions),
            abnormal=pred.meta["abnormal"],
        )
        return row, lesions

    def _write(self, engine: ScanEvaluator) -> None:
        rows, lesions, failures = self.rows, self.lesions, engine.failures
        if idist.get_world_size() > 1:
            parts: list[Any] = [None] * idist.get_world_size()
            torch.distributed.all_gather_object(parts, (rows, lesions, failures))
            rows = sorted((row for part in parts for row in part[0]), key=lambda row: row.name)
            lesions = {name: found for part in parts for name, found in part[1].items()}
            failures = [failure for part in parts for failure in part[2]]
        if idist.get_rank() == 0:
            table = [[getattr(row, name) for name in COLUMNS] for row in rows]
            write_csv(self.output_dir / "scores.csv", COLUMNS, table)
            write_lesions(self.output_dir / "lesions.csv", self.output_dir / "lesions.json", lesions)
            write_failures(self.output_dir, failures)


def _to_array(image: MetaTensor) -> np.ndarray:
    return np.asarray(image.as_subclass(torch.Tensor)[0].cpu())
