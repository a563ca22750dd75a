# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Every detector from the command line to the report, as a bundle of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import FAST
from torch import Tensor

from monai_dpmm_ad.commands import evaluate, fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.detectors import DETECTORS as REGISTRY
from monai_dpmm_ad.detectors import Detector

#: options that make a fit small, as on the command line
DETECTORS = {
    "himatch": ["num_support=2", "num_clusters=4"],
    "memory_bank": ["fraction=0.1", "neighbours=2"],
    "ogae": ["latent_dim=4"],
}


@pytest.fixture(scope="module", params=DETECTORS)
def fitted(
    request: pytest.FixtureRequest, cohort: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    arguments = ["fit", "--images", str(cohort), "--out", str(folder), "--embedder", str(tiny_vit)]
    arguments += ["--image-size", str(FAST["image_size"]), "--detector", request.param]
    for option in DETECTORS[request.param]:
        arguments += ["--detector-option", option]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.showwarning", lambda *rest: None)  # the command line prints them its own way
        assert main(arguments) == 0
    return request.param, folder


@pytest.mark.filterwarnings("default")
def test_maps_figures_and_report_are_made(fitted: tuple[str, Path], cohort: Path, tmp_path: Path) -> None:
    _, bundle = fitted
    outcome = evaluate(bundle, [cohort], tmp_path)
    assert len(outcome.scans) == 4
    assert not outcome.failures
    assert {"image_auroc", "pixel_auroc_foreground", "dice_fpr05"} <= set(outcome.metrics)
    assert all(row.p_value is not None and row.score > 0 for row in outcome.scans)
    assert outcome.report is not None


def test_the_model_loads_as_tensors_only_and_the_config_names_the_detector(fitted: tuple[str, Path]) -> None:
    name, bundle = fitted
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    config = json.loads((bundle / "configs" / "inference.json").read_text())["settings"]
    assert config["detector_name"] == name
    assert set(config["detector_options"]) == {option.partition("=")[0] for option in DETECTORS[name]}


class MeanDetector(Detector):
    """A detector that is not this package's: half the squared distance to the mean of the fitted patches."""

    def __init__(self, embed_dim: int, num_stages: int = 1, location_weight: float = 0.0) -> None:
        super().__init__(embed_dim, num_stages, location_weight)
        self.register_buffer("total", torch.zeros(self.feature_dim))
        self.register_buffer("count", torch.zeros(()))

    @property
    def fitted(self) -> bool:
        return bool(self.count > 0)

    def fit_batch(self, rows: Mapping[str, Tensor], num_data: int) -> Tensor:
        features = self.features(rows)
        self.total += features.sum(0)
        self.count += len(features)
        return torch.zeros(())

    def score(self, features: Tensor) -> Tensor:
        return (features - self.total / self.count).square().sum(-1) / 2


def test_a_fifth_detector_is_a_class_and_a_line_in_the_registry(
    cohort: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "mean", MeanDetector)
    fit([cohort], tmp_path / "bundle", embedder_name=str(tiny_vit), detector_name="mean", **FAST)
    outcome = evaluate(tmp_path / "bundle", [cohort], tmp_path / "out")
    assert len(outcome.scans) == 4
    assert not outcome.failures
    assert all(row.p_value is not None and row.score > 0 for row in outcome.scans)
    assert outcome.drift is not None  # by the scores, since it has no density
    assert outcome.report is not None
    with pytest.raises(ValueError, match="a detector that can go on, got MeanDetector"):
        MeanDetector(8).start_update()


@pytest.mark.slow
def test_monai_runs_the_bundle_to_the_same_scores(fitted: tuple[str, Path], cohort: Path, tmp_path: Path) -> None:
    _, bundle = fitted
    infer(bundle, [cohort], tmp_path / "ours", report=False)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{bundle}/configs/inference.json"]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(cohort), "--output_dir", str(tmp_path / "theirs")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr[-4000:]
    ours, theirs = ((tmp_path / name / "scores.csv").read_text() for name in ("ours", "theirs"))
    assert ours == theirs
