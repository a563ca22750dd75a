# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A second run into a folder of results leaves nothing there that looks like its own and is not."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai_dpmm_ad.commands import infer


def test_no_map_of_an_earlier_scan_stays_where_the_new_one_fails(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "maps"
    scans.mkdir()
    for name in ("test_abnormal_000", "test_healthy_000"):
        shutil.copy(cohort.parent / "imagesTs" / f"{name}.nii.gz", scans)
    done = infer(bundle, str(scans), out, report=False)  # a path by itself is one path
    assert not done.failures
    before = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    edited, notes = out / "test_abnormal_000_mask.nii.gz", out / "notes.txt"
    edited.write_bytes(b"by hand")
    again = infer(bundle, [scans], out, report=False)  # the scan is as it was: nothing is removed, what is said holds
    assert [failure.name for failure in again.failures] == ["test_abnormal_000"]
    assert again.scans == done.scans
    assert [len(again.regions[row.name]) for row in again.scans] == [row.num_regions for row in done.scans]
    assert {path.name for path in out.glob("*.nii.gz")} == set(before)
    notes.write_text("mine")
    damaged = scans / "test_abnormal_000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    outcome = infer(bundle, [scans], out, report=False)
    assert [failure.name for failure in outcome.failures] == ["test_abnormal_000"]
    kept = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    assert kept.pop(edited.name) == b"by hand"
    assert kept == {name: content for name, content in before.items() if "healthy" in name}
    assert notes.read_text() == "mine"


def test_scans_of_other_settings_are_named_and_an_earlier_report_is_removed(
    cohort: Path, bundle: Path, tmp_path: Path
) -> None:
    scans = cohort.parent / "imagesTs"
    first = infer(bundle, scans / "test_abnormal_000.nii.gz", tmp_path)
    assert (tmp_path / "report.html").is_file()
    alike = infer(bundle, scans / "test_healthy_000.nii.gz", tmp_path)
    assert [str(outcome.note).count("are of earlier runs") for outcome in (first, alike)] == [0, 0]
    (tmp_path / "overview.png").write_bytes(b"by hand")
    other = infer(bundle, scans / "test_healthy_000.nii.gz", tmp_path, report=False, false_positive_rate=0.2)
    assert other.note is not None
    assert "1 scans in the tables are of earlier runs with another model or other settings: test_abnor" in other.note
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "overview.png").read_bytes() == b"by hand"
