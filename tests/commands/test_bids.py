# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""``infer`` on a BIDS data set: one participant, one session, and derivatives of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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
    capsys.readouterr()
    assert main([*map(str, [*command, "--participant-label", "3"])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --participant-label: names 3, of whom there is no scan"
