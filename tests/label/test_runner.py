# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from fastapi import HTTPException

from monai_dpmm_ad.bundle.integrity import describe_digest
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.errors import CheckpointError, ScanError
from monai_dpmm_ad.label.refusals import refusing
from monai_dpmm_ad.label.requests import MapRequest
from monai_dpmm_ad.label.runner import BundleRunner, Prediction

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def runner(bundle: Path) -> BundleRunner:
    return BundleRunner(bundle)


@pytest.fixture(scope="module")
def scans(cohort: Path) -> list[Path]:
    return sorted((cohort.parent / "imagesTs").glob("*.nii.gz"))


def map_of(prediction: Prediction) -> np.ndarray:
    return prediction.scan["pred"].as_subclass(torch.Tensor)[0].numpy()


@pytest.mark.parametrize(
    "wanted", [None, MapRequest(0.05, ("coronal", "axial"), 500.0)], ids=["the bundle's defaults", "a request"]
)
def test_it_is_the_command_lines_own_result(
    bundle: Path, runner: BundleRunner, scans: list[Path], tmp_path: Path, wanted: MapRequest | None
) -> None:
    overrides = {} if wanted is None else {"false_positive_rate": 0.05, "axes": ["coronal", "axial"]}
    if wanted is not None:
        overrides["min_region_volume"] = 500.0
    assert not infer(bundle, scans[:2], tmp_path, report=False, **overrides).failures
    rows = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    table = {row["name"]: row for row in rows}
    regions = json.loads((tmp_path / "regions.json").read_text())
    for scan in scans[:2]:
        prediction = runner.run(scan, wanted)
        name = prediction.row.name
        expected = nib.load(tmp_path / f"{name}_anomaly.nii.gz")
        assert np.array_equal(map_of(prediction), np.asarray(expected.dataobj))
        assert np.array_equal(prediction.scan["pred"].meta["original_affine"], expected.affine)
        assert float(table[name]["score"]) == prediction.row.score
        assert int(table[name]["num_regions"]) == prediction.row.num_regions == len(prediction.regions)
        assert [region.num_voxels for region in prediction.regions] == [x["num_voxels"] for x in regions[name]]


def test_eight_at_once_are_eight_in_turn(runner: BundleRunner, scans: list[Path]) -> None:
    wanted = [MapRequest(rate, ("axial",), 0.0) for rate in (0.05, 0.2)]
    jobs = [(scan, request) for scan in scans for request in wanted]
    assert len(jobs) == 8
    in_turn = [runner.run(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda job: runner.run(*job), jobs))
    for one, other in zip(in_turn, at_once, strict=True):
        assert one.row == other.row
        assert one.regions == other.regions
        assert np.array_equal(map_of(one), map_of(other))
    assert in_turn[0].row.threshold > in_turn[1].row.threshold  # each request had its own rate


def test_the_network_is_loaded_once(runner: BundleRunner, scans: list[Path]) -> None:
    assert runner.load() is runner.load()
    assert runner.run(scans[0]).bundle is runner.load()


def test_a_new_bundle_is_taken_up(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    runner = BundleRunner(copy)
    request = MapRequest(0.2, ("axial",), 0.0)  # a rate of voxels, whose threshold the calibration's knots give
    before = runner.run(scans[0], request)
    state = torch.load(copy / "models" / "model.pt", weights_only=True)
    state = {name: value * 1.5 if name == "calibration.knots" else value for name, value in state.items()}
    torch.save(state, copy / "models" / "new.pt")
    metadata = copy / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "fitted": {**content["fitted"], **describe_digest(state)}}))
    (copy / "models" / "new.pt").replace(copy / "models" / "model.pt")
    after = runner.run(scans[0], request)
    assert after.row.threshold == pytest.approx(1.5 * before.row.threshold)
    assert after.bundle.digest != before.bundle.digest


def test_a_bundle_whose_digest_does_not_fit_is_refused(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    """At the start, and where it takes the place of one that is being served; the app answers 503."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    runner = BundleRunner(copy)
    runner.run(scans[0])
    state = torch.load(copy / "models" / "model.pt", weights_only=True)
    state["calibration.knots"][-1] *= 2  # the archive's checksums are right, the numbers are not those of the fit
    torch.save(state, copy / "models" / "new.pt")
    (copy / "models" / "new.pt").replace(copy / "models" / "model.pt")
    with pytest.raises(HTTPException, match=r"model\.pt: is damaged") as caught, refusing():
        runner.run(scans[0])
    assert caught.value.status_code == 503
    with pytest.raises(CheckpointError, match=r"model\.pt: is damaged"):
        BundleRunner(copy).load()


def test_bad_scans_are_named(runner: BundleRunner, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("hello")
    (tmp_path / "list.json").write_text(json.dumps({"test": [{"image": str(scans[0])}]}))
    for path, message in (
        (tmp_path / "bad.nii.gz", "may be damaged"),
        (tmp_path / "none.nii.gz", "none.nii.gz"),
        (tmp_path / "list.json", "a list of scans"),
        (scans[0].parent, "holds 4 scans"),
    ):
        with pytest.raises(ScanError, match=message):
            runner.run(path)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no bundle"):
        BundleRunner(tmp_path).load()
