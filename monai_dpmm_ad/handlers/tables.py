# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Collect what an evaluator says of each scan, and write it as tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys

from monai_dpmm_ad.data import Found
from monai_dpmm_ad.data.dataset import write_failures
from monai_dpmm_ad.data.gate import write_left_out
from monai_dpmm_ad.engines import PATCH_SUMMARY, ScanEvaluator, iteration_scans
from monai_dpmm_ad.engines.resume import ResumeLog
from monai_dpmm_ad.handlers.lesions import Lesion, compute_lesions, write_lesions
from monai_dpmm_ad.normative import Frame
from monai_dpmm_ad.transforms import output_path, own_format_path
from monai_dpmm_ad.utils.distributed import gather_lists, get_rank
from monai_dpmm_ad.utils.files import write_csv
from monai_dpmm_ad.utils.outputs import OutputFolder

__all__ = ["TABLES", "ScanRow", "ScanTable"]

SAVED = ("mask", "percentile")  # beside the map, where they are made: key and postfix
TABLES = ("scores.csv", "lesions.csv", "lesions.json", "failures.csv", "left_out.csv")
COLUMNS = (
    *("name", "image", "score", "p_value", "smallest_p_value", "threshold", "flagged", "flagged_unit", "num_lesions"),
    *("abnormal", "frame", "frame_quality", "warning"),
)


@dataclass(frozen=True)
class ScanRow:
    """One line of ``scores.csv``; ``flagged`` is a volume in mL, or an area in pixels for a picture.

    ``smallest_p_value`` is the least that the calibration's number of scans allows. ``frame`` says how the scan's
    places were brought to the cohort's, ``frame_quality`` how well the registered scan agrees with the cohort's mean: a
    correlation. ``warning`` says why the scan should not be relied on, or what its file leaves open; None where nothing
    does.
    """

    name: str
    image: str
    score: float
    p_value: float | None
    threshold: float | None
    flagged: float | None
    flagged_unit: str
    num_lesions: int | None
    abnormal: int | None
    frame: str | None = None
    frame_quality: float | None = None
    warning: str | None = None
    smallest_p_value: float | None = None


class ScanTable:
    """Write ``scores.csv``, ``lesions.csv``, ``lesions.json`` and, where a scan failed, ``failures.csv``.

    Args:
        output_dir: folder of the tables.
        min_lesion_volume: smallest connected component that counts as a lesion, in mm³ (pixels for a picture).
        datalist: gives the order of the rows; without it they come in that of processing.
        finished: keeps a record of each finished scan, gives those of an interrupted run, and those of earlier runs
            into the same folder, whose rows stay.
        found: what the paths led to: what failed or was left out there is written as well.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        min_lesion_volume: float = 0.0,
        datalist: Sequence[Mapping[str, Any]] = (),
        finished: ResumeLog | None = None,
        found: Found | None = None,
    ) -> None:
        self.found = found
        self.output_dir = Path(output_dir)
        self.min_lesion_volume = min_lesion_volume
        self.finished = finished
        self._order = {str(item["name"]): number for number, item in enumerate(datalist)}
        self.rows: list[ScanRow] = []
        #: items of earlier runs into the same folder, by name
        self.earlier: dict[str, dict[str, Any]] = {}
        self.lesions: dict[str, list[Lesion]] = {}

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._folder = OutputFolder(self.output_dir, rank=get_rank())
        self._folder.hold().check_all(TABLES if get_rank() == 0 else ())
        self.rows.clear()
        self.lesions.clear()
        self.earlier.clear()
        records = dict(self.finished.records) if self.finished else {}
        if self.finished and get_rank() == 0:
            for name, record in self.finished.list_earlier(self._order).items():
                self.earlier[name] = record["item"]
                records[name] = record
        for name, record in records.items():
            self.rows.append(ScanRow(**record["row"]))
            if record["lesions"] is not None:
                self.lesions[name] = [Lesion(**lesion) for lesion in record["lesions"]]

    def _update(self, engine: Engine) -> None:
        for scan in iteration_scans(engine):
            row, lesions = self._describe(scan)
            self.rows.append(row)
            if lesions is not None:
                self.lesions[row.name] = lesions
            if self.finished is not None:
                paths = [output_path(self.output_dir, row.name, key, row.image) for key in ("anomaly", *SAVED)]
                outputs = [path for path, key in zip(paths, (CommonKeys.PRED, *SAVED), strict=True) if key in scan]
                own = [own_format_path(self.output_dir, row.name, key, row.image) for key in ("anomaly", *SAVED)]
                outputs += [path for path in own if path is not None]
                found = None if lesions is None else [asdict(lesion) for lesion in lesions]
                summary = {PATCH_SUMMARY: scan[PATCH_SUMMARY]}
                self.finished.save(row.name, outputs, row=asdict(row), lesions=found, **summary)

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
            smallest_p_value=scan.get("smallest_p_value"),
            threshold=scan.get("threshold"),
            flagged=flagged,
            flagged_unit=unit,
            num_lesions=None if lesions is None else len(lesions),
            abnormal=pred.meta["abnormal"],
            **_describe_frame(scan.get("frame")),
            warning=scan.get("warning"),
        )
        return row, lesions

    def _write(self, engine: ScanEvaluator) -> None:
        rows = sorted(gather_lists(self.rows), key=lambda row: self._order.get(row.name, len(self._order)))
        lesions = dict(gather_lists(list(self.lesions.items())))
        failures = gather_lists(engine.failures)
        failures = [*(self.found.list_failures() if self.found else ()), *failures]
        self.rows, self.lesions = rows, {row.name: lesions[row.name] for row in rows if row.name in lesions}
        engine.failures[:] = failures
        if get_rank() == 0:
            table = [[getattr(row, name) for name in COLUMNS] for row in rows]
            write_csv(self.output_dir / "scores.csv", COLUMNS, table)
            write_lesions(self.output_dir / "lesions.csv", self.output_dir / "lesions.json", self.lesions)
            write_failures(self.output_dir, failures)
            write_left_out(self.output_dir, self.found.left_out if self.found else ())
        self._folder.release()


def _describe_frame(frame: Frame | None) -> dict[str, Any]:
    if frame is None:
        return {}
    return {"frame": frame.kind, "frame_quality": frame.to_dict()["quality"]}


def _to_array(image: MetaTensor) -> np.ndarray:
    return np.asarray(image.as_subclass(torch.Tensor)[0].cpu())
