# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The bundle's multi-GPU overlays, here with two gloo processes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import create_bundle
from monai_dpmm_ad.commands import evaluate

pytestmark = pytest.mark.slow


def run_two_processes(bundle: Path, configs: list[str], **overrides: object) -> None:
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(bundle)]
    for name, value in overrides.items():
        command += [f"--{name}", str(value)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr[-4000:]


def test_evaluating_with_two_processes_is_evaluating_with_one(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    expected = evaluate(bundle, [cohort], tmp_path / "one", report=False)
    configs = ["inference", "evaluate", "multi_gpu_evaluate"]
    run_two_processes(bundle, configs, dataset_dir=cohort, output_dir=tmp_path / "two")
    ones, twos = (sorted((tmp_path / name / "scores.csv").read_text().splitlines()) for name in ("one", "two"))
    assert ones == twos
    for path in (tmp_path / "one").glob("*.nii.gz"):
        other = nib.load(tmp_path / "two" / path.name)
        assert np.array_equal(np.asarray(nib.load(path).dataobj), np.asarray(other.dataobj))
    lines = (tmp_path / "two" / "metrics.csv").read_text().splitlines()
    figures = dict(line.split(",")[:2] for line in lines)
    for name in ("pixel_auroc", "best_dice_foreground", "image_auroc"):
        assert float(figures[name]) == pytest.approx(expected.metrics[name], abs=1e-6)


def test_fitting_with_two_processes_gives_a_complete_bundle(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    bundle = create_bundle(tmp_path / "bundle")
    overrides = {**FAST, "embedder_name": tiny_vit, "dataset_dir": cohort}
    run_two_processes(bundle, ["train", "multi_gpu_train"], **overrides)
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert state["detector.mixture.fitted"]
    assert int(state["calibration.num_scans"]) == 2
    assert json.loads((bundle / "configs" / "inference.json").read_text())["image_size"] == FAST["image_size"]
    outcome = evaluate(bundle, [cohort], tmp_path / "out", report=False)
    assert len(outcome.scans) == 4
    assert not outcome.failures
