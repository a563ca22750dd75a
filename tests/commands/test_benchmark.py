# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The benchmark runner on trees laid out as BMAD's: every cell once, resumed where it stopped, a table at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import FAST
from helpers.bmad_tree import write_bmad

import monai_dpmm_ad.commands.benchmark as runner
from monai_dpmm_ad.commands.benchmark import benchmark, format_table
from monai_dpmm_ad.commands.bmad import DATASETS, find_dataset
from monai_dpmm_ad.commands.cli import main

SETTINGS = {**FAST, "max_epochs": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bmad(tmp_path_factory.mktemp("BMAD"))


def test_every_cell_is_run_once_and_the_table_stands_beside_published_figures(
    root: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fit, evaluate = runner.fit, runner.evaluate
    monkeypatch.setattr(runner, "fit", lambda *a, **k: calls.append(f"fit {k['detector_name']}") or fit(*a, **k))
    monkeypatch.setattr(runner, "evaluate", lambda *a, **k: calls.append("evaluate") or evaluate(*a, **k))
    options = {"embedder_name": str(tiny_vit), **SETTINGS}
    states: list[str] = []

    def run(detectors: list[str], seeds: list[int]) -> None:
        calls.clear()
        states.clear()
        outcome = benchmark(
            root, ["brats2021"], tmp_path, detectors, seeds, report=lambda cell, state: states.append(state), **options
        )
        assert not outcome.failures

    run(["dpmm"], [0])
    assert calls == ["fit dpmm", "evaluate"]
    result = tmp_path / "brats2021" / "dpmm" / "seed0" / "result.json"
    first = result.read_bytes()
    assert not list(tmp_path.rglob("results/*.png")), "maps are not kept"

    monkeypatch.setattr("monai_dpmm_ad.engines.embed._embed_scan", None)  # what is embedded is not embedded again
    run(["dpmm", "memory_bank"], [0])
    assert calls == ["fit memory_bank", "evaluate"]
    assert states == ["done", "started", "finished"]
    assert result.read_bytes() == first
    monkeypatch.undo()

    cells = json.loads((tmp_path / "benchmark.json").read_text())
    assert [(cell["dataset"], cell["detector"], cell["seed"]) for cell in cells] == [
        ("brats2021", "dpmm", 0),
        ("brats2021", "memory_bank", 0),
    ]
    assert all({"image_auroc", "pixel_auroc", "aupro", "dice_fpr10"} <= set(cell["metrics"]) for cell in cells)
    assert all(cell["num_scans"] == 4 and cell["num_failures"] == 0 for cell in cells)
    table = (tmp_path / "table.md").read_text()
    assert f"{100 * cells[0]['metrics']['pixel_auroc']:.2f}" in table
    assert "| PatchCore | BMAD paper" in table
    with pytest.raises(ValueError, match=r"must keep the settings it was begun with.*image_size = 56"):
        benchmark(root, ["brats2021"], tmp_path, ["dpmm"], **{**options, "image_size": 42})


def test_an_interrupted_cell_continues_and_a_failed_one_does_not_stop_the_others(
    root: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"embedder_name": str(tiny_vit), **SETTINGS}
    evaluate = runner.evaluate

    def interrupt(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        benchmark(root, ["resc"], tmp_path, ["dpmm"], **options)
    assert not list(tmp_path.rglob("result.json"))
    model = tmp_path / "resc" / "dpmm" / "seed0" / "bundle" / "models" / "model.pt"
    fitted = model.read_bytes()

    def fail_once(bundle: Path, *arguments: object, **keywords: object):
        if "seed0" in str(bundle):
            raise RuntimeError("no space\nleft")
        return evaluate(bundle, *arguments, **keywords)

    monkeypatch.setattr(runner, "evaluate", fail_once)
    outcome = benchmark(root, ["resc"], tmp_path, ["dpmm"], seeds=[0, 1], **options)
    assert [(failure.name, failure.reason) for failure in outcome.failures] == [("resc/dpmm/seed0", "no space left")]
    monkeypatch.setattr(runner, "evaluate", evaluate)
    assert not benchmark(root, ["resc"], tmp_path, ["dpmm"], seeds=[0, 1], **options).failures
    assert model.read_bytes() == fitted, "the bundle was not fitted again"
    assert "2 seeds" in (tmp_path / "table.md").read_text()


def test_the_command_line_runs_it_and_says_what_is_unknown(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(
        "monai_dpmm_ad.commands.benchmark.benchmark", lambda **options: seen.update(options) or runner.Outcome()
    )
    arguments = ["benchmark", "--data", str(root), "--dataset", "brats2021", "resc", "--out", str(tmp_path)]
    assert main([*arguments, "--detectors", "dpmm", "--seeds", "0", "1", "--score", "cosine"]) == 0
    seen.pop("report")
    assert seen == {
        "data": str(root),
        "datasets": ["brats2021", "resc"],
        "out": str(tmp_path),
        "detectors": ["dpmm"],
        "seeds": [0, 1],
        "score": "cosine",
    }
    monkeypatch.undo()
    for changed, message in (
        (["--dataset", "liver"], "must hold liver"),
        (["--dataset", "rescc"], "Did you mean 'resc'"),
        (["--detectors", "dpm"], "Did you mean 'dpmm'"),
        (["--data", str(tmp_path / "no")], "must be a folder"),
    ):
        assert main([*arguments, *changed]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["Brain_AD", "brain-ad", "Brain", "3918150265_Brain_AD", "BraTS2021", "BraTS2021_slice"]
)
def test_folders_are_found_under_all_published_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "Retina_OCT2017_AD").mkdir()
    assert find_dataset(tmp_path, "brats2021") == tmp_path / name
    assert find_dataset(tmp_path / name, "brats2021") == tmp_path / name
    assert find_dataset(tmp_path, "oct2017") == tmp_path / "Retina_OCT2017_AD"


def test_a_data_set_of_ones_own_may_lie_beside_them(tmp_path: Path) -> None:
    (tmp_path / "brain_mri_2d").mkdir()
    assert find_dataset(tmp_path, "brain_mri_2d") == tmp_path / "brain_mri_2d"


def test_the_table_has_mean_and_spread_over_seeds_and_leaves_out_what_is_not_known() -> None:
    cells = [
        {"dataset": "liver", "detector": "dpmm", "seed": seed, "metrics": {"pixel_auroc": value}}
        for seed, value in enumerate((0.9, 0.94))
    ]
    lines = format_table([*cells, {"dataset": "own", "detector": "dpmm", "seed": 0, "metrics": {"aupro": 0.5}}]).split(
        "\n"
    )
    assert "| **dpmm** | this run, 2 seeds |  | 92.00 ± 2.83 |  |  |  |  |  |  |" in lines
    assert "| **dpmm** | this run, 1 seed |  |  |  | 50.00 |  |  |  |  |" in lines
    assert any(line.startswith("| HiMatch-AD |") and "98.92" in line for line in lines)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert set(DATASETS) == {"brats2021", "liver", "resc", "oct2017", "chest", "histopathology"}
