# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a bundle says of itself after a fit, an update and an evaluation."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import monai
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import load_workflow, read_settings
from monai_dpmm_ad.bundle.card import _quote
from monai_dpmm_ad.bundle.folder import template
from monai_dpmm_ad.bundle.provenance import FILE, count_fitted, load_provenance
from monai_dpmm_ad.commands import evaluate, fit
from monai_dpmm_ad.data.phantoms import write_cohort

BLOCKS = ("model", "data", "calibration", "evaluation", "machine", "limits")


def read_metadata(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def read_block(bundle: Path, name: str) -> str:
    text = (bundle / "docs" / "README.md").read_text()
    return re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)[1]


def test_the_readme_says_what_was_fitted_in_numbers(bundle: Path, tiny_vit: Path) -> None:
    assert "the detector `dpmm` on the embedder `tiny`" in read_block(bundle, "model")
    assert "56 pixels, slices of each plane with square pixels, 1 channel)" in read_block(bundle, "model")
    data = read_block(bundle, "data")
    assert "Fitted on 3 healthy scans;\n2 more were held out" in data
    assert "- 3D scans\n- voxels of 4 × 4 × 4 mm\n" in data
    calibration = read_block(bundle, "calibration")
    assert "Calibrated on 2 held-out healthy scans:\nthe smallest p-value of a scan is 0.33." in calibration
    assert "(frame: box)" in calibration
    machine = read_block(bundle, "machine")
    assert re.search(
        r"on \d+ cores of .+; its last run took \d+ (seconds|minutes) and \d+\.\d GiB of memory at most\.", machine
    )
    assert f"monai {monai.__version__}" in machine
    assert "are guaranteed with 3 held-out healthy scans or more" in read_block(bundle, "limits")


def test_a_name_is_neither_markup_nor_a_mark_of_the_readme() -> None:
    assert _quote("a`b<!-- /model -->\x1b[1m\n") == "a'b‹!-- /model -->\\x1b[1m\\n"


def test_it_names_neither_scans_nor_folders(bundle: Path, tiny_vit: Path) -> None:
    texts = [(bundle / "docs" / "README.md").read_text(), (bundle / "configs" / "metadata.json").read_text()]
    for scan in load_provenance(bundle)["scans"]:
        for text in texts:
            assert scan["name"] not in text
            assert str(Path(scan["image"]).parent) not in text
            assert str(tiny_vit) not in text


def test_metadata_are_of_this_fit(bundle: Path) -> None:
    metadata = read_metadata(bundle)
    assert metadata["data_source"].startswith("3 healthy scans fitted, 2 held out; 3D scans; voxels of 4 × 4 × 4 mm")
    assert metadata["name"] == "Anomaly maps"
    assert metadata["changelog"] == {"0.1.0": "3 scans fitted, 2 held out"}
    assert metadata["monai_version"] == monai.__version__
    assert metadata["pytorch_version"] == torch.__version__.split("+")[0]
    for part in (
        metadata["network_data_format"]["inputs"]["image"],
        metadata["network_data_format"]["outputs"]["pred"],
    ):
        assert part["spatial_shape"] == [56, 56]
    assert metadata["fitted"]["num_fitted"] == 3


def test_the_training_config_has_the_settings_of_the_fit(bundle: Path, tiny_vit: Path) -> None:
    settings = json.loads((bundle / "configs" / "train.json").read_text())["settings"]
    assert {name: settings[name] for name in FAST} == FAST
    assert settings["embedder_name"] == str(tiny_vit)
    assert settings["seed"] == 0
    assert "regions" not in settings  # a path
    values = load_workflow(bundle, ["train"], "train", trust_bundle=True).parser.get_parsed_content("values")
    assert {name: values[name] for name in FAST} == FAST


@pytest.fixture(scope="module")
def evaluated(bundle: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A copy, and the figures of its evaluation."""
    copy = shutil.copytree(bundle, tmp_path_factory.mktemp("evaluated") / "copy")
    outcome = evaluate(copy, [cohort], copy.parent / "out", report=False)
    return copy, outcome.metrics


def test_an_evaluation_writes_its_figures(evaluated: tuple[Path, dict[str, Any]], bundle: Path) -> None:
    copy, figures = evaluated
    block = read_block(copy, "evaluation")
    assert "compared 4 scans, 2 of them abnormal" in block
    low, high = figures["image_auroc_ci"]
    assert f"| image AUROC | {figures['image_auroc']:.3f} ({low:.3f}–{high:.3f}) |" in block
    stored = read_metadata(copy)["eval_metrics"]
    assert (stored["num_scans"], stored["num_abnormal"]) == (4, 2)
    assert stored["aupro"] == pytest.approx(figures["aupro"], abs=1e-4)
    for name in BLOCKS:
        assert name == "evaluation" or read_block(copy, name) == read_block(bundle, name)
    assert read_settings(copy) == read_settings(bundle)


def test_what_an_author_wrote_stays(evaluated: tuple[Path, dict[str, Any]], cohort: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(evaluated[0], tmp_path / "copy")
    readme = copy / "docs" / "README.md"
    own = re.sub(r"<!-- /?evaluation -->\n", "", readme.read_text()) + "\nSigned by me.\n"
    readme.write_text(own)
    evaluate(copy, [cohort], tmp_path / "out", report=False, save_maps=False)
    assert readme.read_text() == own
    assert read_metadata(copy)["eval_metrics"]["num_scans"] == 4


def test_a_bundle_that_cannot_be_written_is_evaluated_all_the_same(
    bundle: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    before = read_block(bundle, "evaluation")
    monkeypatch.setattr("monai_dpmm_ad.bundle.card.write_json", refuse)
    with pytest.warns(UserWarning, match="README does not take the figures.*Permission denied"):
        outcome = evaluate(bundle, [cohort], tmp_path / "out", report=False, save_maps=False)
    assert outcome.metrics["image_auroc"] >= 0
    assert read_block(bundle, "evaluation") == before


def test_an_update_is_the_next_version(
    evaluated: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    more = write_cohort(
        tmp_path_factory.mktemp("more"),
        num_train=1, num_valid=0, num_test_healthy=1, num_test_abnormal=0, spacing=4.0, size="small", seed=5,
    )  # fmt: skip
    settings = {name: value for name, value in FAST.items() if name != "num_components"}
    fit([more], tmp_path / "new", update=evaluated[0], **settings)
    assert "Fitted on 4 healthy scans, in a first fit and 1 update;" in read_block(tmp_path / "new", "data")
    assert "Not evaluated yet" in read_block(tmp_path / "new", "evaluation")
    metadata = read_metadata(tmp_path / "new")
    assert metadata["version"] == "0.2.0"
    assert metadata["changelog"]["0.2.0"] == "update: 4 scans fitted, 2 held out"
    assert metadata["changelog"]["0.1.0"] == "3 scans fitted, 2 held out"
    assert metadata["eval_metrics"] == {}
    state = torch.load(tmp_path / "new" / "models" / "model.pt", weights_only=True)
    recipe = json.loads((tmp_path / "new" / "configs" / "train.json").read_text())["settings"]
    assert recipe["num_components"] == len(state["detector.mixture.statistic_counts"])


def test_the_templates_card_claims_nothing() -> None:
    text = (template() / "docs" / "README.md").read_text()
    assert not re.search(r"0\.\d\d|\d %", re.sub(r"```.*?```|arXiv \S+", "", text, flags=re.DOTALL))
    for name in BLOCKS:
        assert read_block(template(), name).strip()


def test_a_bundle_without_provenance_knows_the_number_of_its_scans(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("fit"))
    assert count_fitted(copy) == 3
    (copy / FILE).unlink()
    assert count_fitted(copy) == 3
    (copy / "configs" / "metadata.json").write_text("[]")
    assert count_fitted(copy) == 0
