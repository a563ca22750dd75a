# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The tables of an evaluation: what a scan's output has is in its row, what it has not stays empty."""

from __future__ import annotations

import csv
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_dpmm_ad.engines import PATCH_SUMMARY
from monai_dpmm_ad.engines.resume import ResumeLog
from monai_dpmm_ad.handlers import ScanTable
from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.regions import RegionCalibration

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def make_scan(name: str, **more: Any) -> dict[str, Any]:
    """A scan with two regions above 1: eight voxels of 2, and one voxel of 7."""
    values = torch.zeros(1, 6, 6, 6)
    values[0, :2, :2, :2] = 2
    values[0, 5, 5, 5] = 7
    meta = {"name": name, "filename_or_obj": f"/{name}.nii.gz", "original_affine": AFFINE, "abnormal": None}
    scan = {"pred": MetaTensor(values, meta=meta), "mask": MetaTensor(values > 1, meta=meta)}
    return {**scan, "score": 2.0, "p_value": 0.5, "threshold": 1.0, PATCH_SUMMARY: None, **more}


def run(table: ScanTable, scans: list[dict[str, Any]]) -> None:
    def step(engine: Engine, scan: dict[str, Any]) -> list[dict[str, Any]]:
        atlas = {key: scan[key] for key in ("regions",) if key in scan}
        engine.state.batch = [atlas]  # as MONAI parts it
        return [{key: value for key, value in scan.items() if key not in atlas}]

    engine: Any = Engine(step)
    engine.failures, engine.at_end = [], ExitStack()
    table.attach(engine)
    with engine.at_end:
        engine.run(scans, max_epochs=1)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def calibration() -> RegionCalibration:
    fitted = RegionCalibration()
    for number in range(9):
        fitted.update(str(number), np.array([4.0]))
    fitted.finish()
    return fitted


def test_rows_have_regions_p_values_and_frames(calibration: RegionCalibration, tmp_path: Path) -> None:
    table = ScanTable(tmp_path, calibration=calibration)
    run(table, [make_scan("framed", frame=Frame("affine", np.eye(4), 0.875)), make_scan("plain")])
    framed, plain = read(tmp_path / "scores.csv")
    assert (framed["num_regions"], float(framed["region_p_value"])) == ("2", 0.1)
    assert (framed["frame"], float(framed["frame_quality"])) == ("affine", 0.875)
    assert (plain["frame"], plain["frame_quality"], plain["abnormal"]) == ("", "", "")
    assert float(framed["flagged"]) == pytest.approx(9 * 8 / 1000)
    regions = json.loads((tmp_path / "regions.json").read_text())
    high, low = regions["framed"]
    assert (high["peak_score"], high["p_value"]) == (7.0, 0.1), "higher than in all nine scans"
    assert (low["peak_score"], low["p_value"]) == (2.0, 1.0)
    assert high["centroid_reference"] == [10.0, 10.0, 10.0]
    assert (regions["plain"][0]["centroid_reference"], regions["plain"][0]["p_value"]) == (None, None)


def test_without_calibration_there_are_no_p_values(tmp_path: Path) -> None:
    run(ScanTable(tmp_path, calibration=RegionCalibration()), [make_scan("a")])
    assert read(tmp_path / "scores.csv")[0]["region_p_value"] == ""
    assert [row["peak_score"] for row in read(tmp_path / "regions.csv")] == ["7.0", "2.0"], "by peak then"


def test_regions_are_named_from_the_table_beside_the_atlas(tmp_path: Path) -> None:
    (tmp_path / "atlas.tsv").write_text("index\tname\n1\tLeft\n2\tRight\n")
    labels = torch.ones(1, 6, 6, 6, dtype=torch.int32)
    labels[0, 3:] = 2
    atlas = MetaTensor(labels, meta={"filename_or_obj": str(tmp_path / "atlas.nii.gz")})
    run(ScanTable(tmp_path), [make_scan("a", regions=atlas)])
    assert [row["anatomy"] for row in read(tmp_path / "regions.csv")] == ["Right", "Left"]
    left, right = read(tmp_path / "anatomy.csv")
    assert (left["name"], left["label"], left["anatomy"], float(left["size"])) == ("a", "1", "Left", pytest.approx(864))
    assert [float(left[key]) for key in ("flagged", "num_regions", "largest")] == pytest.approx([64, 1, 64])
    assert (right["largest_region"], left["largest_region"]) == ("1", "2")
    assert [float(row["sum_score"]) for row in (left, right)] == pytest.approx([8 * 2 * 8, 7 * 8])


def test_a_table_of_anatomy_does_not_outlive_its_atlas(tmp_path: Path) -> None:
    atlas = MetaTensor(torch.ones(1, 6, 6, 6, dtype=torch.int32), meta={"filename_or_obj": str(tmp_path / "a.nii.gz")})
    run(ScanTable(tmp_path), [make_scan("a", regions=atlas)])
    assert (tmp_path / "anatomy.csv").is_file()
    run(ScanTable(tmp_path), [make_scan("a")])
    assert not (tmp_path / "anatomy.csv").exists()


def test_q_values_are_those_of_the_whole_table(calibration: RegionCalibration, tmp_path: Path) -> None:
    framed = {"frame": Frame("affine", np.eye(4), 0.9)}
    run(ScanTable(tmp_path, calibration=calibration), [make_scan("a", **framed), make_scan("b", **framed, p_value=0.1)])
    assert [float(row["q_value"]) for row in read(tmp_path / "scores.csv")] == pytest.approx([0.5, 0.2])
    regions = {(row["name"], row["region"]): float(row["q_value"]) for row in read(tmp_path / "regions.csv")}
    assert regions == pytest.approx({("a", "1"): 0.2, ("a", "2"): 1.0, ("b", "1"): 0.2, ("b", "2"): 1.0})


def test_a_second_run_writes_the_same_tables_without_the_scans(calibration: RegionCalibration, tmp_path: Path) -> None:
    items = [{"name": name, "image": f"/{name}.nii.gz"} for name in ("a", "b")]
    atlas = MetaTensor(torch.ones(1, 6, 6, 6, dtype=torch.int32), meta={"filename_or_obj": str(tmp_path / "a.nii.gz")})
    contents = []
    for expected in (2, 0):
        log = ResumeLog(tmp_path, tmp_path / "model.pt", {})
        remaining = log.remaining(items)
        assert len(remaining) == expected
        table = ScanTable(tmp_path, datalist=items, finished=log, calibration=calibration)
        scans = [make_scan(str(item["name"]), regions=atlas) for item in remaining]
        if scans:
            run(table, scans)
        else:
            engine: Any = Engine(lambda *_: [])
            engine.failures, engine.at_end = [], ExitStack()
            with engine.at_end:
                table._start(engine)
                table._write(engine)
        names = ("scores.csv", "regions.csv", "regions.json", "anatomy.csv")
        contents.append([(tmp_path / name).read_bytes() for name in names])
    assert contents[0] == contents[1]
