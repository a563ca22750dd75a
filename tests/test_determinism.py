# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The same input, seed and machine give the same output; another number of threads gives nearly the same."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST
from helpers.machine import without_machine

from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.detectors import DETECTORS

pytestmark = pytest.mark.slow


def run(command: list[object], threads: int | None) -> None:
    """Run in this process, or in one of its own with a number of threads."""
    arguments = [str(part) for part in command]
    if threads is None:
        assert main(arguments) == 0
        return
    finished = subprocess.run(
        [sys.executable, "-m", "monai_dpmm_ad", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    assert finished.returncode == 0, finished.stderr[-4000:]


def run_pipeline(
    cohort: Path, backbone: Path, folder: Path, detector: str = "dpmm", threads: int | None = None
) -> None:
    """Fit, evaluate."""
    fast = ["--image-size", FAST["image_size"], "--num-components", FAST["num_components"], "--max-epochs", 2]
    frame = "deformed" if detector == "dpmm" else "box"  # registration is the same for all
    options = ["--embedder", backbone, "--detector", detector, "--frame", frame, *fast]
    run(["fit", "--images", cohort, "--out", folder / "bundle", *options], threads)
    run(["evaluate", "--bundle", folder / "bundle", "--data", cohort, "--out", folder / "out"], threads)


def read(folder: Path) -> dict[str, bytes]:
    """All files but TensorBoard's, which hold the time; what one says of its own folder or of the run is left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name]
    contents = {str(path.relative_to(folder)): path.read_bytes().replace(bytes(folder), b"") for path in files}
    return {name: without_machine(content) for name, content in contents.items()}


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_the_same_pipeline_twice_writes_the_same_bytes(
    cohort: Path, tiny_vit: Path, tmp_path: Path, detector: str
) -> None:
    run_pipeline(cohort, tiny_vit, tmp_path / "one", detector)
    run_pipeline(cohort, tiny_vit, tmp_path / "two", detector, threads=torch.get_num_threads())
    one, two = (read(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert {"bundle/models/model.pt", "out/report.html", "out/metrics.json", "out/scores.csv"} <= set(one)


def test_another_number_of_threads_changes_scores_by_less_than_a_hundred_thousandth(
    cohort: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    for threads in (1, 2):
        run_pipeline(cohort, tiny_vit, tmp_path / str(threads), threads=threads)
    one, two = (tmp_path / name for name in ("1", "2"))
    for item in resolve_datalist([str(cohort)], section="test"):
        maps = [
            np.asarray(nib.load(folder / "out" / f"{item['name']}_anomaly.nii.gz").dataobj) for folder in (one, two)
        ]
        np.testing.assert_allclose(maps[0], maps[1], rtol=1e-5, atol=1e-5 * maps[0].max())
    tables = [csv.DictReader((folder / "out" / "scores.csv").read_text().splitlines()) for folder in (one, two)]
    for row, other in zip(*tables, strict=True):
        assert float(row["score"]) == pytest.approx(float(other["score"]), rel=1e-5)
