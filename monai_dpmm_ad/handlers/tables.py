# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Collect what an evaluator says of each scan, and write it as tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys
from numpy.typing import NDArray

from monai_dpmm_ad.calibration.discovery import q_values
from monai_dpmm_ad.data import Found
from monai_dpmm_ad.data.dataset import ScanFailure, write_failures
from monai_dpmm_ad.data.gate import write_left_out
from monai_dpmm_ad.engines import PATCH_SUMMARY, ScanEvaluator, iteration_scans
from monai_dpmm_ad.engines.resume import ResumeLog
from monai_dpmm_ad.handlers.anatomy import AnatomyRow, sum_by_label, write_anatomy
from monai_dpmm_ad.handlers.regions import Region, compute_regions, name_regions, write_regions
from monai_dpmm_ad.handlers.scan_row import ScanRow
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.normative import Frame, RegionCalibration
from monai_dpmm_ad.normative.extraction import measure_foreground
from monai_dpmm_ad.transforms.regions import read_region_names
from monai_dpmm_ad.utils.distributed import gather_lists, get_rank
from monai_dpmm_ad.utils.files import file_sha256, write_csv
from monai_dpmm_ad.utils.outputs import OutputFolder

__all__ = ["TABLES", "ScanTable", "join_scans"]

SAVED = ("mask", "percentile", "healthy")  # beside the map, where they are made: key and postfix
TABLES = ("scores.csv", "regions.csv", "regions.json", "anatomy.csv", "failures.csv", "left_out.csv")


class ScanTable:
    """Write ``scores.csv``, ``regions.csv``, ``regions.json``, ``anatomy.csv`` of an atlas, ``failures.csv``.

    Args:
        output_dir: folder of the tables.
        min_region_volume: smallest connected component that counts as a region, in mm³ (pixels for a picture).
        datalist: gives the order of the rows; without it they come in that of processing.
        finished: keeps a record of each finished scan, gives those of an interrupted run, and those of earlier runs
            into the same folder, whose rows stay.
        found: what the paths led to: what failed or was left out there is written as well.
        calibration: of the regions of healthy scans: gives p-values, if it has seen any.
        network: gives those of a scan's group, where it has groups.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import load_workflow
        >>> options = {"dataset_dir": [str(folder / "scans")], "output_dir": str(folder / "maps"), "save_maps": False}
        >>> with load_workflow(folder / "bundle", ["inference"], "inference", **options) as workflow:
        ...     _ = workflow.run()
        >>> isinstance(workflow.table, ScanTable), [row.name for row in workflow.table.rows]
        (True, ['test_healthy_000', 'test_abnormal_000'])
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        min_region_volume: float = 0.0,
        datalist: Sequence[Mapping[str, Any]] = (),
        finished: ResumeLog | None = None,
        found: Found | None = None,
        calibration: RegionCalibration | None = None,
        network: AnomalyNet | None = None,
    ) -> None:
        self.found = found
        self.network = network
        self.calibration = calibration
        self.output_dir = Path(output_dir)
        self.min_region_volume = min_region_volume
        self.finished = finished
        self._order = {str(item["name"]): number for number, item in enumerate(datalist)}
        self._owners = {str(item["name"]): str(item["image"]) for item in datalist}
        self.rows: list[ScanRow] = []
        #: items of earlier runs into the same folder, by name
        self.earlier: dict[str, dict[str, Any]] = {}
        #: what a reader of the tables has to know; None if nothing
        self.note: str | None = None
        self._others: dict[str, str] = {}  # scans of another model or other settings, and by which they are alike
        self.regions: dict[str, list[Region]] = {}
        #: what flagged regions fill of each label, by name of the scan
        self.anatomy: dict[str, list[AnatomyRow]] = {}

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: ScanEvaluator) -> None:
        folder = OutputFolder(self.output_dir, rank=get_rank())
        engine.at_end.callback(folder.release)
        self._folder = folder.hold()
        self._folder.check_all(TABLES if get_rank() == 0 else ())
        self.rows.clear()
        self.regions.clear()
        self.anatomy.clear()
        self.earlier.clear()
        records = dict(self.finished.records) if self.finished else {}
        if self.finished and get_rank() == 0:
            listed = self.finished.list_earlier(self._order)
            found = {name: record for name, record in listed.items() if not self._is_outdated(record)}
            self.earlier |= {name: record["item"] for name, record in found.items()}
            self._others = {n: str(r.get("maker")) for n, r in found.items() if not self.finished.is_alike(r)}
            self.note = _name_others(list(self._others))
            records |= found
        for name, record in records.items():
            self._take(name, record)

    def _is_outdated(self, record: Mapping[str, Any]) -> bool:
        """Whether a later run has replaced a scan's outputs, which nobody has changed by hand."""
        for file, digest in record["outputs"].items():
            now = file_sha256(self.output_dir / file)
            if now != digest and self._folder.has_written(self.output_dir / file, now):
                return True
        return False

    def _take(self, name: str, record: Mapping[str, Any]) -> None:
        """Take over what was recorded of a scan."""
        self.rows.append(ScanRow(**record["row"]))
        if record["regions"] is not None:
            self.regions[name] = [Region(**region) for region in record["regions"]]
        if record.get("anatomy"):
            self.anatomy[name] = [AnatomyRow(**label) for label in record["anatomy"]]

    def _update(self, engine: Engine) -> None:
        for scan in join_scans(engine):
            row, regions, anatomy = self._describe(scan)
            self.rows.append(row)
            if anatomy:
                self.anatomy[row.name] = anatomy
            if regions is not None:
                self.regions[row.name] = regions
            if self.finished is not None:
                listed = None if regions is None else [asdict(region) for region in regions]
                more = {"anatomy": [asdict(label) for label in anatomy], PATCH_SUMMARY: scan[PATCH_SUMMARY]}
                self._record(self.finished, scan, row=asdict(row), regions=listed, **more)

    def _record(self, finished: ResumeLog, scan: Mapping[str, Any], **content: Any) -> None:
        """Record a scan, and remove what an earlier run wrote of it and this one does not."""
        maps = [scan[key] for key in (CommonKeys.PRED, *SAVED) if key in scan]
        outputs = [Path(path) for one in maps for path in one.meta.get("saved_to", ())]
        meta = scan[CommonKeys.PRED].meta
        if outputs:
            self._folder.discard_earlier(str(meta["filename_or_obj"]), _list_stems(meta["name"]))
        finished.save(meta["name"], outputs, **content)

    def _describe(self, scan: dict[str, Any]) -> tuple[ScanRow, list[Region] | None, list[AnatomyRow]]:
        pred = scan[CommonKeys.PRED]
        anatomy: list[AnatomyRow] = []
        regions, flagged, unit = None, None, "mL"
        if "mask" in scan:
            mask, affine = _to_array(scan["mask"]) > 0, np.asarray(pred.meta["original_affine"])
            regions, anatomy = self._find_regions(scan, mask, affine)
            if mask.ndim == 2:
                flagged, unit = float(mask.sum()), "pixels"
            else:
                flagged = measure_foreground(mask, affine)
        row = ScanRow(
            name=pred.meta["name"],
            image=str(pred.meta["filename_or_obj"]),
            score=scan["score"],
            p_value=scan.get("p_value"),
            smallest_p_value=scan.get("smallest_p_value"),
            threshold=scan.get("threshold"),
            flagged=flagged,
            flagged_unit=unit,
            num_regions=None if regions is None else len(regions),
            region_p_value=regions[0].p_value if regions else None,
            abnormal=pred.meta["abnormal"],
            **_describe_frame(scan.get("frame")),
            covariates=scan.get("covariates"),
            group=scan.get("group"),
            warning=scan.get("warning"),
            in_range=scan.get("in_range"),
        )
        return row, regions, anatomy

    def _find_regions(
        self, scan: Mapping[str, Any], mask: NDArray[np.bool_], affine: NDArray[np.float64]
    ) -> tuple[list[Region], list[AnatomyRow]]:
        frame, atlas, group = scan.get("frame"), scan.get("regions"), scan.get("group")
        calibration = self.calibration
        if self.network is not None and group is not None:
            calibration = self.network.judge_of(group).regions
        # What has no place among the healthy scans is not what the regions were calibrated on.
        calibration = None if frame is None or frame.kind == "none" else calibration
        if calibration is not None:
            calibration = calibration.of(scan[CommonKeys.PRED].meta.get("present"))
        values = _to_array(scan[CommonKeys.PRED])
        regions = compute_regions(mask, values, affine, self.min_region_volume, calibration, frame)
        in_range = scan.get("in_range")
        regions = regions._replace(listed=[replace(region, in_range=in_range) for region in regions.listed])
        if atlas is None:
            return regions.listed, []
        labels, names = _to_array(atlas), read_region_names(atlas.meta["filename_or_obj"])
        size, unit = (1.0, "pixels") if mask.ndim == 2 else (float(abs(np.linalg.det(affine[:3, :3]))), "mm3")
        anatomy = sum_by_label(regions, values, labels, names, size, unit)
        return name_regions(regions, labels, names), anatomy

    def _write(self, engine: ScanEvaluator) -> None:
        failures = gather_lists(engine.failures)
        if get_rank() == 0:
            self._keep_edited(failures)
        failures = [*(self.found.list_failures() if self.found else ()), *failures]
        rows = sorted(gather_lists(self.rows), key=lambda row: self._order.get(row.name, len(self._order)))
        regions = dict(gather_lists(list(self.regions.items())))
        anatomy = dict(gather_lists(list(self.anatomy.items())))
        others = dict(gather_lists(list(self._others.items())))
        alike = [others.get(row.name) for row in rows]
        values = q_values([None if row.in_range is False else row.p_value for row in rows], alike)
        self.rows = [replace(row, q_value=q) for row, q in zip(rows, values, strict=True)]
        listed = {row.name: regions[row.name] for row in rows if row.name in regions}
        self.regions = _judge_together(listed, others)
        self.anatomy = {row.name: anatomy[row.name] for row in rows if row.name in anatomy}
        engine.failures[:] = failures
        if get_rank() == 0:
            columns = [column.name for column in fields(ScanRow)]
            table = [[getattr(row, name) for name in columns] for row in self.rows]
            write_csv(self.output_dir / "scores.csv", columns, table)
            write_regions(self.output_dir / "regions.csv", self.output_dir / "regions.json", self.regions)
            write_anatomy(self.output_dir / "anatomy.csv", self.anatomy)
            write_failures(self.output_dir, failures)
            self._discard_maps(failures)
            write_left_out(self.output_dir, self.found.left_out if self.found else ())

    def _keep_edited(self, failures: Sequence[ScanFailure]) -> None:
        """Keep the rows of scans one of whose outputs was changed by hand, and of others of the same name."""
        if self.finished is None:
            return
        for name in dict.fromkeys(failure.name for failure in failures if failure.name in self._order):
            record = self.finished.recall(name)
            if record is None:
                continue
            self._take(name, record)
            if self.finished.is_of_another(record):
                self.earlier[name] = record["item"]

    def _discard_maps(self, failures: Sequence[ScanFailure]) -> None:
        """Remove what an earlier run wrote of scans that failed in this one: they would look done."""
        for failure in failures:
            if self.finished is None or failure.name not in self._order or self.finished.recall(failure.name):
                continue
            for path in self.finished.forget(failure.name):
                self._folder.discard(path)
            self._folder.discard_earlier(self._owners[failure.name], _list_stems(failure.name))  # an evaluation's


def join_scans(engine: Engine) -> list[dict[str, Any]]:
    """All that an evaluator holds of its current scan; MONAI parts what was there before the network ran from the rest.

    Args:
        engine: a :class:`~monai_dpmm_ad.engines.ScanEvaluator`.
    """
    before = cast(list[dict[str, Any]], engine.state.batch)
    return [{**loaded, **scan} for loaded, scan in zip(before, iteration_scans(engine), strict=True)]


def _list_stems(name: str) -> list[str]:
    return [f"{name}_{postfix}" for postfix in ("anomaly", *SAVED)]


def _name_others(names: Sequence[str]) -> str | None:
    if not names:
        return None
    shown = ", ".join(names[:3]) + ", …" * (len(names) > 3)
    return f"{len(names)} scans in the tables are of earlier runs with another model or other settings: {shown}"


def _judge_together(regions: Mapping[str, list[Region]], others: Mapping[str, str]) -> dict[str, list[Region]]:
    """Give each region its q-value among all of scans that are alike."""
    flat = [region for listed in regions.values() for region in listed]
    alike = [others.get(name) for name, listed in regions.items() for _ in listed]
    values = iter(q_values([None if region.in_range is False else region.p_value for region in flat], alike))
    return {name: [replace(region, q_value=next(values)) for region in listed] for name, listed in regions.items()}


def _describe_frame(frame: Frame | None) -> dict[str, Any]:
    if frame is None:
        return {}
    return {"frame": frame.kind, "frame_quality": frame.to_dict()["quality"]}


def _to_array(image: MetaTensor) -> NDArray[Any]:
    return np.asarray(image.as_subclass(torch.Tensor)[0].cpu())
