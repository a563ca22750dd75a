# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A fit can be followed in MLflow, through MONAI's own handler."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import FAST

from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.cli import main

pytestmark = pytest.mark.filterwarnings("default")


def test_a_fit_is_a_run_with_its_settings_and_losses(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{tmp_path}/runs.db"
    fit([cohort], tmp_path / "my_bundle", embedder_name=str(tiny_vit), mlflow=address, **FAST)
    client = mlflow.MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("monai_dpmm_ad").experiment_id])
    assert (run.info.run_name, run.info.status) == ("my_bundle", "FINISHED")
    assert run.data.params["covariance"] == "diagonal"
    assert run.data.params["num_components"] == str(FAST["num_components"])
    assert {"train_loss", "val_criterion"} <= set(run.data.metrics)
    assert len(client.get_metric_history(run.info.run_id, "val_criterion")) == FAST["max_epochs"]


def test_without_mlflow_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    arguments = ["fit", "--images", str(tmp_path), "--out", str(tmp_path / "b"), "--mlflow", "sqlite:///runs.db"]
    assert main(arguments) == 1
    assert "pip install 'monai-dpmm-ad[mlflow]'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
