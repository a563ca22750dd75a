# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

import monai_dpmm_ad
from monai_dpmm_ad.bundle import (
    FORMAT_VERSION,
    create_bundle,
    is_fitted,
    load_workflow,
    read_settings,
    write_settings,
)
from monai_dpmm_ad.bundle.folder import save_model, template
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.errors import CheckpointError

TEMPLATE = Path(__file__).parents[2] / "bundles" / "dpmm_ad"
CONFIGS = [
    (["train"], "train"),
    (["train", "multi_gpu_train"], "train"),
    (["inference"], "inference"),
    (["inference", "evaluate"], "inference"),
    (["inference", "evaluate", "multi_gpu_evaluate"], "inference"),
]


def read(name: str) -> dict:
    return json.loads((TEMPLATE / "configs" / f"{name}.json").read_text())


def test_train_and_inference_agree() -> None:
    train, inference = read("train"), read("inference")
    assert train["settings"] == inference["settings"] == {}  # what is not given has its declared default
    assert inference["format_version"] == FORMAT_VERSION
    for part in ("embedder", "detector", "network"):
        assert train[part] == inference[part]
    fitted = {"state": "$monai_dpmm_ad.read_state(@ckpt_path)"}
    assert {**train["network_def"], **fitted} == inference["network_def"]
    assert train["calibrate"]["inferer"] == inference["inferer"]


def test_the_configs_name_the_public_face_only() -> None:
    for file in (TEMPLATE / "configs").glob("*.json"):
        named = set(re.findall(r"monai_dpmm_ad((?:\.\w+)+)", file.read_text()))
        assert all(name[1:] in dir(monai_dpmm_ad) for name in named), file


@pytest.mark.parametrize(
    ("configs", "kind"), CONFIGS, ids=lambda value: "+".join(value) if isinstance(value, list) else ""
)
def test_monai_finds_every_property(bundle: Path, cohort: Path, tmp_path: Path, configs: list[str], kind: str) -> None:
    workflow = load_workflow(bundle, configs, kind, dataset_dir=str(cohort), output_dir=str(tmp_path), initialize=[])
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.finalize()


def test_metadata_says_how_many_components_the_fit_left(bundle: Path) -> None:
    fitted = json.loads((bundle / "configs" / "metadata.json").read_text())["fitted"]
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    counts = state["detector.mixture.statistic_counts"]
    assert fitted["num_components"] == len(counts)
    assert 1 <= fitted["components_for_90_percent"] <= fitted["components_for_99_percent"] <= fitted["num_active"]
    assert fitted["num_active"] <= int((counts >= 0.5).sum())


@pytest.fixture(scope="module")
def results(bundle: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("infer")
    assert not infer(bundle, [cohort], out, report=False).failures
    return out


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["from its folder", "from elsewhere"])
def test_the_bundle_and_the_command_line_give_the_same_bits(
    bundle: Path, cohort: Path, results: Path, tmp_path: Path, inside: bool
) -> None:
    root = "." if inside else str(bundle)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{root}/configs/inference.json"]
    command += ["--bundle_root", root, "--dataset_dir", str(cohort), "--output_dir", str(tmp_path / "out")]
    finished = subprocess.run(command, cwd=bundle if inside else tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "out" / "scores.csv").read_text() == (results / "scores.csv").read_text()
    maps = sorted(path.name for path in results.glob("*.nii.gz"))
    assert len(maps) == 12  # map, mask and percentile of four scans
    for name in maps:
        theirs, ours = nib.load(tmp_path / "out" / name), nib.load(results / name)
        assert np.array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj))
        assert theirs.header.binaryblock == ours.header.binaryblock


def test_outputs_lie_on_the_scans_own_grid(cohort: Path, results: Path) -> None:
    for item in json.loads(cohort.read_text())["test"]:
        scan = nib.load(cohort.parent / item["image"])
        name = Path(item["image"]).name.removesuffix(".nii.gz")
        for postfix, dtype in (("anomaly", np.float32), ("mask", np.uint8), ("percentile", np.float32)):
            out = nib.load(results / f"{name}_{postfix}.nii.gz")
            assert out.shape == scan.shape
            assert np.array_equal(out.affine, scan.affine)
            assert out.get_data_dtype() == dtype
        values = np.asarray(nib.load(results / f"{name}_anomaly.nii.gz").dataobj)
        assert values.min() == 0
        assert not values[np.asarray(scan.dataobj) == 0].any()


def test_the_model_holds_tensors_only(bundle: Path) -> None:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_a_fitted_bundle_keeps_its_settings(bundle: Path, tiny_vit: Path) -> None:
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    settings = config["settings"]
    placed = {name: config[name] for name in ("output_ext", "output_dtype", "output_postfix", "separate_folder")}
    assert {**settings, **config["displayable_configs"], **placed} == read_settings(bundle)
    assert (settings["embedder_name"], settings["image_size"]) == (str(tiny_vit), FAST["image_size"])


def test_create_bundle_never_touches_what_is_there(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(CheckpointError, match="fitted bundle already"):
        create_bundle(bundle)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(CheckpointError, match="not empty and no bundle"):
        create_bundle(tmp_path / "thesis")
    with pytest.raises(CheckpointError, match="is a file"):
        create_bundle(tmp_path / "thesis" / "chapter1.tex")
    assert not is_fitted(create_bundle(tmp_path / "new"))
    create_bundle(tmp_path / "new")  # unfinished: taken up again


def test_what_is_no_fitted_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no bundle"):
        load_workflow(tmp_path, ["inference"], "inference")
    with pytest.raises(CheckpointError, match="no fitted model"):
        load_workflow(create_bundle(tmp_path / "new"), ["inference"], "inference")


@pytest.mark.parametrize("value", ["$__import__('os').remove('x')", "@network", "%a.json", ["ok", "$1"], {"a": ["$1"]}])
def test_overrides_are_never_expressions(bundle: Path, value: object) -> None:
    with pytest.raises(ValueError, match="begin with"):
        load_workflow(bundle, ["inference"], "inference", dataset_dir=value)


@pytest.mark.parametrize("key", ["_target_", "a#b", "$a"])
def test_overrides_never_name_what_to_run(bundle: Path, key: str) -> None:
    with pytest.raises(ValueError, match="plain names"):
        load_workflow(bundle, ["train"], "train", detector_options={"options": {key: "os.remove"}})


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("inference", {"false_positive_rat": 0.1}, "neither a setting nor an id.*`false_positive_rate`"),
        ("inference", {"inferer#axis": 1, "evaluater": 1}, "`evaluater` is neither a setting nor an id"),
        ("inference", {"rate": 0.1}, "neither a setting nor an id.*`false_positive_rate`"),
        ("inference", {"no_percentile": True}, "neither a setting nor an id.*`save_percentile`"),
        ("train", {"embedder": "compact"}, "must be a part of the config, got 'compact'.*`embedder_name`"),
        ("inference", {"detector": "himatch"}, "must be a part of the config, got 'himatch'.*`detector_name`"),
        ("inference", {"seed": 1}, "`seed` is no setting of a run"),
        ("train", {"false_positive_rate": 0.1}, "`false_positive_rate` is no setting of a fit"),
        ("train", {"image_size": "112"}, "`image_size` must be a whole number"),
        ("train", {"upsampling": "guide"}, "Did you mean 'guided'"),
    ],
)
def test_wrong_overrides_are_refused(bundle: Path, kind: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_workflow(bundle, [kind], kind, **overrides)


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    root = create_bundle(tmp_path / "new")
    with pytest.raises(ValueError, match="`colour` is no setting of a run"):
        write_settings(root, {"colour": 1})
    with pytest.raises(ValueError, match=r"`min_region` is no setting of a run\. Did you mean `min_region_volume`"):
        write_settings(root, {"min_region": 1})
    write_settings(root, {"false_positive_rate": 0.07})
    assert read_settings(root)["false_positive_rate"] == 0.07


def test_a_copy_of_the_template_that_monai_fits_is_evaluated_like_another(bundle: Path, tmp_path: Path) -> None:
    """The template's own `evaluate.json` holds what evaluation adds alone."""
    copy = shutil.copytree(template(), tmp_path / "copy")
    model = AnomalyModel.load(bundle)
    save_model(copy, model.network, model.settings)
    one, two = (json.loads((folder / "configs" / "evaluate.json").read_text()) for folder in (bundle, copy))
    assert one == two
