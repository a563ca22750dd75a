# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a user reads of each scan: rows of several runs, warnings, what the p-value can be at least."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.commands import evaluate, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms.score import ScoreScand


@pytest.fixture
def scans(cohort: Path) -> list[Path]:
    return sorted((cohort.parent / "imagesTs").glob("*.nii.gz"))


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_scan_by_scan_into_one_folder_adds_rows_regions_and_report(
    bundle: Path, scans: list[Path], tmp_path: Path
) -> None:
    for number, scan in enumerate(scans[:3], start=1):
        outcome = infer(bundle, [scan], tmp_path / "single", report=number == 3)
        assert len(outcome.scans) == 1
        assert len(rows(tmp_path / "single")) == number
    infer(bundle, scans[:3], tmp_path / "together", report=False)
    assert rows(tmp_path / "single") == rows(tmp_path / "together")
    regions = [json.loads((tmp_path / name / "regions.json").read_text()) for name in ("single", "together")]
    assert regions[0] == regions[1]
    page = (tmp_path / "single" / "report.html").read_text()
    assert all(name in page for name in rows(tmp_path / "single"))
    maps = {path.name.removesuffix("_anomaly.nii.gz") for path in (tmp_path / "single").glob("*_anomaly.nii.gz")}
    assert maps == set(rows(tmp_path / "single"))


def test_the_same_scan_again_is_replaced(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    infer(bundle, scans[:2], tmp_path, report=False, false_positive_rate=0.1)
    before = rows(tmp_path)
    infer(bundle, scans[:1], tmp_path, report=False, false_positive_rate=0.3)
    after = rows(tmp_path)
    assert list(after) == [scans[0].name.split(".")[0], scans[1].name.split(".")[0]]
    changed, kept = after
    assert after[kept] == before[kept]
    assert after[changed]["threshold"] != before[changed]["threshold"]


def test_a_scan_whose_maps_were_removed_has_no_row(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    infer(bundle, scans[:2], tmp_path, report=False)
    gone = scans[1].name.split(".")[0]
    (tmp_path / f"{gone}_anomaly.nii.gz").unlink()
    infer(bundle, scans[:1], tmp_path, report=False)
    assert gone not in rows(tmp_path)


def test_the_smallest_p_value_stands_beside_p(
    bundle: Path, scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # a narrow screen breaks the heading
    arguments = ["infer", "--bundle", bundle, "--images", scans[0], "--out", tmp_path]
    assert main([str(argument) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    (row,) = rows(tmp_path).values()
    assert float(row["smallest_p_value"]) == pytest.approx(1 / 3)  # two held-out scans
    assert float(row["p_value"]) >= float(row["smallest_p_value"])
    assert "p-values are not below 0.33" in " ".join(out.split())
    page = (tmp_path / "report.html").read_text()
    assert "smallest possible: 0.333" in page
    assert page.count("are guaranteed with 3 held-out healthy scans") == 1
    assert "3 held-out" not in out + err


@pytest.mark.filterwarnings("default")
def test_a_scan_of_another_kind_is_warned_of_everywhere(
    bundle: Path, scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = nib.load(scans[0])
    data = np.asarray(image.dataobj, dtype=np.float32)
    ct = np.where(data > 0, 40 + 40 * data / data.max(), -1000).astype(np.float32)
    nib.save(nib.Nifti1Image(ct, image.affine), tmp_path / "ct.nii.gz")
    small = image.affine.copy()
    small[:3, :3] *= 0.5
    nib.save(nib.Nifti1Image(data, small), tmp_path / "child.nii.gz")
    paths = [tmp_path / "ct.nii.gz", tmp_path / "child.nii.gz", scans[1]]
    arguments = ["infer", "--bundle", bundle, "--out", tmp_path / "out", "--images", *paths]
    assert main([str(argument) for argument in arguments]) == 0
    err = capsys.readouterr().err
    table, page = rows(tmp_path / "out"), (tmp_path / "out" / "report.html").read_text()
    assert not table[scans[1].name.split(".")[0]]["warning"]
    for name, words in (("ct", "its modality is CT"), ("child", "its voxels measure")):
        assert words in table[name]["warning"]
        assert f"warning: {name}: This scan is unlike those that were fitted, do not rely on it" in err
        assert table[name]["warning"] in page
        assert "p-values and the number of false regions are not promised" in table[name]["warning"]
        assert table[name]["in_range"] == "False"
        assert table[name]["p_value"]
        assert not table[name]["q_value"]
    usual = table[scans[1].name.split(".")[0]]
    assert usual["in_range"] == "True"
    assert float(usual["q_value"]) == float(usual["p_value"])  # alone among those that count
    regions = json.loads((tmp_path / "out" / "regions.json").read_text())
    for name, listed in regions.items():
        assert {str(region["in_range"]) for region in listed} <= {table[name]["in_range"]}
        assert all((region["q_value"] is None) == (name in ("ct", "child")) for region in listed)
    with open(tmp_path / "out" / "regions.csv", newline="", encoding="utf-8") as file:
        assert all(row["in_range"] == table[row["name"]]["in_range"] for row in csv.DictReader(file))
    assert "2 outside of what was fitted, whose p-values are not promised" in page
    assert f"{float(table['ct']['p_value']):.3f} ?" in page


def test_a_scan_of_which_nothing_was_scored_is_a_failure() -> None:
    image = MetaTensor(torch.ones(1, 5, 6, 7), meta={"filename_or_obj": "scan.nii.gz", "name": "scan"})
    empty = MetaTensor(torch.zeros(1, 5, 6, 7), meta=dict(image.meta))
    with pytest.raises(ScanError, match=r"scan.nii.gz: shows nothing that could be scored"):
        ScoreScand(Calibration())({"image": image, "pred": empty})


def test_an_evaluation_without_truth_says_what_was_looked_for(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must hold masks or classes .*got 4 scans without either. Looked for: `label`"
    ):
        evaluate(bundle, scans, tmp_path / "out", report=False)
    assert not list(tmp_path.glob("out/*_anomaly*"))


def test_what_failed_before_loading_is_a_failure_of_the_run(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outcome = infer(bundle, [tmp_path / "empty", scans[0]], tmp_path / "out", report=False)
    assert [failure.reason for failure in outcome.failures] == ["is an empty folder"]
    assert len(outcome.scans) == 1
