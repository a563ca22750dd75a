# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A bundle whose mixture has grown beyond the truncation that it was asked to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import monai.bundle
import pytest
import torch

from monai_dpmm_ad import AnomalyModel, fit, infer
from monai_dpmm_ad.bundle import read_settings
from monai_dpmm_ad.bundle.parts import fit_settings

OPTIONS = {"embedder_name": "pixels-8", "image_size": 96, "num_components": 2, "max_components": 32, "frame": "box"}


@pytest.fixture(scope="module")
def grown(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grown") / "bundle"
    outcome = fit([cohort], folder, patch_fraction=1.0, max_epochs=6, **OPTIONS)
    assert not outcome.failures
    return folder


def count(bundle: Path) -> int:
    """Components of the stored mixture."""
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert state["drift.usage"].shape[1] == len(state["detector.mixture.statistic_counts"])
    return len(state["detector.mixture.statistic_counts"])


def test_it_loads_and_draws_maps(grown: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 < count(grown) <= 32
    fitted = json.loads((grown / "configs" / "metadata.json").read_text())["fitted"]
    assert fitted["num_components"] == count(grown)
    assert read_settings(grown)["num_components"] == 2  # what a refit begins with
    assert not infer(grown, [cohort], tmp_path, report=False).failures
    network = AnomalyModel.load(grown).network
    images = torch.rand(2, 1, 60, 50, generator=torch.Generator().manual_seed(0))
    monkeypatch.chdir(grown)
    for kind in ("train", "inference"):
        loaded = monai.bundle.load("bundle", bundle_dir=grown.parent, workflow_type=kind, device="cpu").eval()
        assert torch.equal(loaded(images), network(images))


def test_it_takes_in_new_scans(grown: Path, cohort: Path, tmp_path: Path) -> None:
    new = sorted((cohort.parent / "imagesTs").glob("*.nii.gz"))[:2]
    assert not fit(new, tmp_path / "bundle", update=grown, max_epochs=2).failures
    assert count(grown) <= count(tmp_path / "bundle") <= 32
    assert read_settings(tmp_path / "bundle")["max_components"] == 32


def test_a_detector_without_components_cannot_grow() -> None:
    with pytest.raises(ValueError, match="`max_components` must be left out for memory_bank"):
        fit_settings({"max_components": 400, "detector_name": "memory_bank"})
