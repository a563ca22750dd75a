# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The typed workflow: names for what comes out of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import AnomalyWorkflow, create_bundle, load_workflow, read_settings
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.handlers import DriftHandler, ScanMetrics, ScanTable
from monai_dpmm_ad.network import AnomalyNet


@pytest.fixture(scope="module")
def evaluated(bundle: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> AnomalyWorkflow:
    out = tmp_path_factory.mktemp("evaluated")
    places = sys.path[:]
    configs = ["inference", "evaluate"]
    with load_workflow(
        bundle, configs, "inference", dataset_dir=str(cohort), output_dir=str(out), save_maps=False
    ) as workflow:
        workflow.run()
    assert sys.path == places
    return workflow


def test_what_a_run_gives_has_a_name(evaluated: AnomalyWorkflow, bundle: Path) -> None:
    assert evaluated.settings == read_settings(bundle) | {"save_maps": False}
    assert isinstance(evaluated.table, ScanTable)
    assert [row.name for row in evaluated.table.rows] == [item["name"] for item in evaluated.datalist]
    assert set(evaluated.table.regions) == {item["name"] for item in evaluated.datalist}
    assert isinstance(evaluated.metrics, ScanMetrics)
    assert 0 <= evaluated.metrics.figures["pixel_auroc"] <= 1
    assert isinstance(evaluated.drift, DriftHandler)
    assert evaluated.drift.result is not None
    assert isinstance(evaluated.network, AnomalyNet)
    assert evaluated.network is evaluated.network_def
    assert not evaluated.network.training
    assert evaluated.failures == []
    assert evaluated.check_properties() == []


def test_inference_has_no_metrics(bundle: Path) -> None:
    with load_workflow(bundle, ["inference"], "inference", dataset_dir=str(bundle)) as workflow:
        assert workflow.metrics is None


def test_what_failed_is_listed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("hello")
    options = {"dataset_dir": str(tmp_path / "bad.nii.gz"), "output_dir": str(tmp_path / "out")}
    with load_workflow(bundle, ["inference"], "inference", **options) as workflow:
        workflow.run()
    assert [failure.name for failure in workflow.failures] == ["bad"]


def test_a_fit_has_a_split_and_failures(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_text("hello")
    options = {**FAST, "embedder_name": str(tiny_vit), "max_epochs": 1, "dataset_dir": [str(cohort), str(bad)]}
    with load_workflow(create_bundle(tmp_path / "bundle"), ["train"], "train", **options) as workflow:
        assert len(workflow.split.train) == 4
        workflow.run()
    assert [failure.name for failure in workflow.failures] == ["bad"]
    assert workflow.settings["max_epochs"] == 1
    assert workflow.network.calibration.fitted


def test_a_renewed_workflow_shares_the_network_only(evaluated: AnomalyWorkflow, cohort: Path, tmp_path: Path) -> None:
    scan = str(cohort.parent / "imagesTs" / "test_healthy_000.nii.gz")
    before = evaluated.settings
    with evaluated.renewed(dataset_dir=scan, output_dir=str(tmp_path), axes=["coronal"]) as fresh:
        assert fresh.network is evaluated.network
        assert fresh.table is not evaluated.table
        assert fresh.settings == before | {"axes": ["coronal"]}
        fresh.run()
    assert len(fresh.table.rows) == 1
    assert len(evaluated.table.rows) == 4
    assert evaluated.settings == before
    with pytest.raises(ValueError, match="neither a setting nor an id"):
        evaluated.renewed(axis="coronal")
    with pytest.raises(ValueError, match="`pooling` must be that of the loaded model, auto, got max"):
        evaluated.renewed(pooling="max")  # whose scores the calibration has not seen


def test_a_bundle_that_was_not_fitted_says_so_to_monai_as_well(tmp_path: Path) -> None:
    from monai.bundle import ConfigWorkflow

    root = create_bundle(tmp_path / "new")
    workflow = ConfigWorkflow(
        str(root / "configs" / "inference.json"), workflow_type="inference", bundle_root=str(root)
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.network_def  # noqa: B018
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, CheckpointError):
        error = error.__cause__
    assert "has not been fitted" in str(error)


@pytest.mark.parametrize("files", [["inference"], ["inference", "evaluate"], ["train", "evaluate"]], ids="+".join)
def test_a_setting_that_calibration_has_not_seen_is_said_in_monais_own_runs(
    bundle: Path, caplog: pytest.LogCaptureFixture, files: list[str]
) -> None:
    from monai.bundle import ConfigWorkflow

    configs = [str(bundle / "configs" / f"{file}.json") for file in files]
    options = {"workflow_type": "inference", "bundle_root": str(bundle), "logging_file": False}
    ConfigWorkflow(configs, **options, **{"displayable_configs#false_regions": 0.5}).initialize()
    assert caplog.text == ""
    ConfigWorkflow(configs, **options, **{"settings#upsampling": "bilinear"}).initialize()
    told = "calibrated with `upsampling` guided, not bilinear: its thresholds and p-values do not hold"
    assert caplog.text.count(told) == 1


def test_a_workflow_says_so_where_nobody_else_does(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_workflow(bundle, ["inference"], "inference", pooling="max").initialize()
    assert "calibrated with `pooling` auto, not max" in caplog.text
    caplog.clear()
    load_workflow(bundle, ["inference"], "inference", judge_settings=False, pooling="max").initialize()
    assert caplog.text == ""


def test_the_fitted_state_is_the_networks(evaluated: AnomalyWorkflow, bundle: Path) -> None:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    found = evaluated.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert json.loads((bundle / "configs" / "inference.json").read_text())["settings"]["section"] == "test"
