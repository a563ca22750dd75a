# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Each notebook of docs/notebooks runs from its first cell to its last, and finds what its text says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"

pytestmark = pytest.mark.slow


def run_cells(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Execute a notebook's cells of code in one namespace; its temporary files lie in ``folder``."""
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name} {cell['id']}", "exec"), names)
    return names


def test_fit_and_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots = pytest.importorskip("matplotlib.pyplot")
    plots.switch_backend("agg")
    names = run_cells("1_fit_and_look.ipynb", tmp_path, monkeypatch)
    plots.close("all")
    assert (names["model"].outcome.metrics["num_fitted"], names["model"].outcome.metrics["num_held_out"]) == (6, 4)
    assert names["result"].p_value >= 1 / 5
    assert names["result"].map.shape == names["scan"].shape
    assert names["truth"].any()
    assert [panel.get_title() for panel in names["panels"]] == ["scan", "map", "flagged", "truth"]
    assert (names["folder"] / "my_bundle" / "models" / "model.pt").is_file()


def test_an_ignite_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_cells("2_ignite_loop.ipynb", tmp_path, monkeypatch)
    assert names["outcome"].failures == []
    metrics, details = names["state"].metrics, names["details"]
    assert metrics["key_metric"] in [value for name, value in metrics.items() if name != "key_metric"]
    assert metrics["pixel_auroc"] == details["pixel_auroc"] > 0.5
    low, high = details["pixel_auroc_ci"]
    assert low <= details["pixel_auroc"] <= high


def test_a_study_of_two_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_cells("3_two_groups.ipynb", tmp_path, monkeypatch)
    assert (len(names["patients"]), len(names["controls"])) == (4, 4)
    wins = sum(patient > control for patient in names["patients"] for control in names["controls"])
    assert names["auroc"] == wins / 16
    assert names["low"] <= names["auroc"] <= names["high"]
    assert all(value >= 1 / 5 for value in names["adjusted"])


def test_notebooks_are_kept_without_what_they_printed() -> None:
    for path in FOLDER.glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None), path
