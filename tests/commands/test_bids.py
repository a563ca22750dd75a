# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""``infer`` on a BIDS data set: one participant, one session, and derivatives of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.commands.cli import main


def test_one_participant_and_session_becomes_derivatives(
    bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))[0]
    root, out = tmp_path / "raw", tmp_path / "out"
    for name in ("sub-1/ses-a/anat/sub-1_ses-a_T1w", "sub-1/ses-b/anat/sub-1_ses-b_T1w", "sub-2/anat/sub-2_T1w"):
        (root / name).parent.mkdir(parents=True)
        (root / f"{name}.nii.gz").write_bytes(scan.read_bytes())
    (root / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.9.0"}))
    command = ["infer", "--bundle", bundle, "--images", root, "--out", out, "--suffix", "T1w", "--no-report"]
    chosen = ["--participant-label", "1", "--session", "b"]
    assert main([*map(str, [*command, *chosen, "--bids"])]) == 0
    maps = sorted(path.name for path in (out / "bids").rglob("*.nii.gz"))
    assert maps == [
        "sub-1_ses-b_space-orig_desc-anomaly_T1w.nii.gz",
        "sub-1_ses-b_space-orig_desc-regions_mask.nii.gz",
    ]
    (anomaly,) = (out / "bids").rglob("*_T1w.nii.gz")
    assert anomaly.parent == out / "bids" / "sub-1" / "ses-b" / "anat"
    expected = nib.load(out / "sub-1_ses-b_T1w_anomaly.nii.gz")
    np.testing.assert_array_equal(nib.load(anomaly).dataobj, expected.dataobj)
    facts = json.loads(anomaly.with_name(anomaly.name.replace(".nii.gz", ".json")).read_text())
    assert facts["Sources"] == ["bids:raw:sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz"]
    assert 0 < facts["PValue"] <= 1
    regions = json.loads(next((out / "bids").rglob("*_mask.json")).read_text())
    assert (regions["PValue"], regions["InRange"]) == (facts["PValue"], facts["InRange"])
    capsys.readouterr()
    assert main([*map(str, [*command, "--participant-label", "3"])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --participant-label: names 3, of whom there is no scan"


def test_two_sessions_are_compared_and_become_derivatives(
    bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = nib.load(sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))[0])
    root, out = tmp_path / "raw", tmp_path / "out"
    for session, gain in (("a", 1.0), ("b", 2.0)):
        path = root / "sub-1" / f"ses-{session}" / "anat" / f"sub-1_ses-{session}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        values = np.asarray(scan.dataobj, dtype=np.float32)
        middle = tuple(slice(size // 2 - 2, size // 2 + 2) for size in values.shape)
        values[middle] *= gain
        nib.save(nib.Nifti1Image(values, scan.affine), path)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.9.0"}))
    command = ["compare", "--bundle", bundle, "--before", root, "--out", out, "--suffix", "T1w", "--bids"]
    assert main([*map(str, [*command, "--session", "a", "b"])]) == 0
    folder = out / "bids" / "sub-1" / "ses-a" / "anat"
    assert sorted(path.name for path in folder.glob("*.nii.gz")) == [
        "sub-1_ses-a_space-orig_desc-change_T1w.nii.gz",
        "sub-1_ses-a_space-orig_desc-changed_dseg.nii.gz",
    ]
    facts = json.loads((folder / "sub-1_ses-a_space-orig_desc-change_T1w.json").read_text())
    assert facts["Sources"] == [f"bids:raw:sub-1/ses-{visit}/anat/sub-1_ses-{visit}_T1w.nii.gz" for visit in "ab"]
    assert facts["InRange"] in (True, False)
    assert facts["ComparedWith"] == "sub-1_ses-b_T1w.nii.gz"
    change = nib.load(folder / "sub-1_ses-a_space-orig_desc-change_T1w.nii.gz").get_fdata()
    assert change.max() > 0
    validator = shutil.which(
        "bids-validator-deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if validator is not None:
        environment = {**os.environ, "DENO_NO_UPDATE_CHECK": "1"}
        run = subprocess.run(
            [validator, str(out / "bids"), "--json"], capture_output=True, text=True, timeout=120, env=environment
        )
        issues = json.loads(run.stdout)["issues"]["issues"]
        assert [issue for issue in issues if issue["severity"] == "error"] == [], run.stderr
    capsys.readouterr()
    for sessions, reason in (
        (["a", "c"], "names c, of which there is no scan"),
        (["a", "a"], "must name two sessions"),
    ):
        assert main([*map(str, [*command, "--session", *sessions])]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert reason in line


def test_derivatives_are_of_scans_that_have_maps(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    scans = [tmp_path / f"sub-{number}_T1w.nii.gz" for number in (1, 2)]
    for path in scans:
        path.write_bytes((cohort.parent / "imagesTs" / "test_healthy_000.nii.gz").read_bytes())
        assert infer(bundle, path, tmp_path / "out", report=False, bids=True).failures == []
    folder = tmp_path / "out" / "bids"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["sub-1", "sub-2"], "the first one's stay"
    before = {path: path.read_bytes() for path in (folder / "sub-1").rglob("*.nii.gz")}
    scans[1].write_bytes(b"damaged")
    assert [failure.name for failure in infer(bundle, scans[1], tmp_path / "out", report=False).failures] == [
        "sub-2_T1w"
    ]
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["sub-1"]
    assert {path: path.read_bytes() for path in (folder / "sub-1").rglob("*.nii.gz")} == before
