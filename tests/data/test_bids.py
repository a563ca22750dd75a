# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""BIDS: names, people, sessions, and derivatives that the standard's own validator takes."""

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

from monai_dpmm_ad.data import find_scans
from monai_dpmm_ad.data.bids import Derivative, find_root, read_entities, write_derivatives
from monai_dpmm_ad.errors import ScanError

#: The validator of PyPI's bids-validator-deno, where it is installed.
VALIDATOR = shutil.which(
    "bids-validator-deno", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
SCANS = ("sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T1w", "sub-02/anat/sub-02_run-1_T1w")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small raw data set, with results of another program in it."""
    raw = tmp_path / "raw"
    for name in (*SCANS, "derivatives/other/sub-01/anat/sub-01_desc-preproc_T1w"):
        path = raw / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).uniform(0, 100, (8, 9, 10)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    description = {"Name": "raw", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (raw / "dataset_description.json").write_text(json.dumps(description))
    return raw


def images(found: object) -> list[str]:
    return [Path(item["image"]).name.removesuffix(".nii.gz") for item in found.items]  # type: ignore[attr-defined]


def test_names() -> None:
    assert read_entities("/a/sub-01_acq-highres_FLAIR.nii.gz") == {"sub": "01", "acq": "highres", "suffix": "FLAIR"}
    for name in ("scan.nii.gz", "T1w_sub-01.nii", "sub-01.nii", "sub-01_odd_T1w.nii", "run-1_sub-01_T1w.nii"):
        assert read_entities(name) is None


def test_people_and_sessions_are_chosen_and_results_of_others_are_no_scans(root: Path) -> None:
    assert images(find_scans(root)) == ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_run-1_T1w"]
    found = find_scans(root, participant_label=["sub-01"], session="2")
    assert images(found) == ["sub-01_ses-2_T1w"]
    assert sorted(thing.kind for thing in found.left_out) == ["other participants", "other sessions"]
    assert images(find_scans(root, participant_label=["02"])) == ["sub-02_run-1_T1w"]
    with pytest.raises(ScanError, match=r"--participant-label: names 07, 9, of whom there is no scan"):
        find_scans(root, participant_label=["9", "07", "01"])


def make_derivatives(root: Path, out: Path) -> list[Path]:
    derivatives = []
    for name in SCANS:
        scan = root / f"{name}.nii.gz"
        for key, description, suffix, dtype in (
            ("anomaly", "anomaly", None, np.float32),
            ("mask", "regions", "mask", np.uint8),
        ):
            file = out / f"{scan.name.removesuffix('.nii.gz')}_{key}.nii.gz"
            out.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(np.ones((8, 9, 10), dtype), np.eye(4)), file)
            facts = {"Type": "ROI"} if suffix == "mask" else {"SkullStripped": False, "PValue": 0.04}
            derivatives.append(Derivative(scan, file, description, suffix, facts))
    return write_derivatives(out / "bids", derivatives)


def test_results_are_derivatives(root: Path, tmp_path: Path) -> None:
    written = make_derivatives(root, tmp_path / "out")
    folder = tmp_path / "out" / "bids"
    names = [path.relative_to(folder).as_posix() for path in written]
    assert names[:2] == [
        "sub-01/ses-1/anat/sub-01_ses-1_space-orig_desc-anomaly_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_space-orig_desc-regions_mask.nii.gz",
    ]
    assert names[4] == "sub-02/anat/sub-02_run-1_space-orig_desc-anomaly_T1w.nii.gz"
    sidecar = json.loads((folder / names[0].replace(".nii.gz", ".json")).read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"]
    assert sidecar["PValue"] == 0.04
    description = json.loads((folder / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "monai-dpmm-ad"
    assert (folder / description["DatasetLinks"]["raw"]).resolve() == root.resolve()
    assert written[0].stat().st_ino == (tmp_path / "out" / "sub-01_ses-1_T1w_anomaly.nii.gz").stat().st_ino, "no copy"
    assert find_root(written[0]) == folder
    again = make_derivatives(root, tmp_path / "out")
    assert again == written, "a second run replaces its own"


def test_scans_of_other_names_have_no_derivative(tmp_path: Path) -> None:
    assert (
        write_derivatives(tmp_path / "bids", [Derivative(tmp_path / "a.nii", tmp_path / "b.nii", "x", None, {})]) == []
    )
    assert not (tmp_path / "bids").exists()


@pytest.mark.skipif(VALIDATOR is None, reason="no BIDS validator here (pip install bids-validator-deno)")
def test_the_validator_takes_them(root: Path, tmp_path: Path) -> None:
    make_derivatives(root, tmp_path / "out")
    command = [str(VALIDATOR), str(tmp_path / "out" / "bids"), "--json"]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "DENO_NO_UPDATE_CHECK": "1"}
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == [], run.stderr
