# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the model zoo's checks ask of a bundle, without a network. Properties and runs from the command line that
:mod:`test_bundle` has already are not repeated."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

import monai_dpmm_ad
from monai_dpmm_ad import __version__
from monai_dpmm_ad.bundle import create_bundle, load_workflow, read_settings
from monai_dpmm_ad.bundle.zoo import check_zoo_rules
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.transforms import preprocess_scan

TEMPLATE = Path(__file__).parents[2] / "bundles" / "dpmm_ad"
SCHEMA = Path(monai_dpmm_ad.__file__).parent / "bundle" / "meta_schema_20240725.json"
METADATA = json.loads((TEMPLATE / "configs" / "metadata.json").read_text())
#: Of the zoo's template; each is one heading of the README.
HEADINGS = (
    *("Model Title", "Authors", "Tags", "Model Description", "Data", "Preprocessing", "Performance"),
    *("Additional Usage Steps", "System Configuration", "Limitations", "Citation", "References"),
)
#: As the configs of the zoo say how files are called and what they hold.
OUTPUT_IDS = ("output_ext", "output_dtype", "output_postfix", "separate_folder")
CONFIGS = ("train", "inference", "evaluate", "multi_gpu_train", "multi_gpu_evaluate")

pytestmark = pytest.mark.filterwarnings("default")  # MONAI's checks warn of torch's and transformers' own parts


def test_the_zoos_files_are_there() -> None:
    files = {path.relative_to(TEMPLATE).as_posix() for path in TEMPLATE.rglob("*") if path.is_file()}
    assert {
        "LICENSE",
        "docs/README.md",
        "docs/data_license.txt",
        "configs/metadata.json",
        "configs/logging.conf",
    } <= files
    assert {f"configs/{name}.json" for name in CONFIGS} <= files
    assert all((TEMPLATE / file).stat().st_size < 25e6 for file in files)  # larger ones would need large_files.yml


def test_a_fitted_bundle_keeps_the_zoos_rules(bundle: Path) -> None:
    check_zoo_rules(bundle)


def test_metadata_follow_the_schema(bundle: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    shutil.copy(SCHEMA, schema)  # found in place, so nothing is downloaded
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize(
    "change", [{"version": 1}, {"authors": None}, {"references": "a"}, {"network_data_format": {}}]
)
def test_wrong_metadata_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    (tmp_path / "metadata.json").write_text(json.dumps({**METADATA, **change}))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))


def test_metadata_say_what_is_installed() -> None:
    assert METADATA["schema"].endswith("/meta_schema_20240725.json")
    assert METADATA["version"] in METADATA["changelog"]
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text().split()
    pins = {name.lower(): release.split("+")[0] for name, release in (line.split("==") for line in lines)}
    named = {
        "monai": METADATA["monai_version"],
        "torch": METADATA["pytorch_version"],
        "numpy": METADATA["numpy_version"],
    }
    named |= METADATA["required_packages_version"]
    assert named.pop("monai-dpmm-ad") == __version__
    assert named == {name: pins[name] for name in named}
    assert set(METADATA["network_data_format"]["inputs"]) == {"image"}
    assert set(METADATA["network_data_format"]["outputs"]) == {"pred"}


def test_the_network_takes_and_gives_what_the_metadata_say(bundle: Path) -> None:
    root = str(bundle)
    files = {"meta_file": f"{root}/configs/metadata.json", "config_file": f"{root}/configs/inference.json"}
    verify_net_in_out(net_id="network_def", device="cpu", bundle_root=root, **files)


# The trace takes the linear layers as they are: in bfloat16 they round once more than the packed ones, before GELU.
@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, {}), (True, {"rtol": 5e-3, "atol": 1e-5})])
def test_the_zoos_torchscript_export_equals_the_network(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bfloat16: bool, tolerance: dict[str, float]
) -> None:
    if not bfloat16:
        monkeypatch.setattr("monai_dpmm_ad.embedding.hf_vit.supports_bfloat16", lambda device: False)
    path, shape = tmp_path / "model.ts", (1, 1, 60, 50)
    ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        use_trace=True,
        input_shape=shape,
        bundle_root=str(bundle),
    )
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images[..., :10] = 0
    with torch.no_grad():
        network = load_workflow(bundle, ["inference"], "inference").parser.get_parsed_content("network_def")
        expected, found = network.eval()(images), torch.jit.load(path)(images)
    assert float(expected.max()) > 0
    torch.testing.assert_close(found, expected, **tolerance)


def run_workflow(root: Path | str, configs: list[str], kind: str, **overrides: Any) -> None:
    workflow = load_workflow(root, configs, kind, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("configs", [["inference"], ["inference", "evaluate"]], ids="+".join)
def test_fitted_configs_initialise_run_and_finalise(
    bundle: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configs: list[str], inside: bool
) -> None:
    monkeypatch.chdir(bundle if inside else tmp_path)
    root = "." if inside else bundle
    run_workflow(root, configs, "inference", dataset_dir=str(cohort), output_dir=str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*_anomaly.nii.gz"))) == 4
    assert (tmp_path / "out" / "metrics.csv").is_file() == ("evaluate" in configs)


def test_the_zoos_way_of_evaluation_is_train_with_evaluate_over_it(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    configs = [str(bundle / "configs" / f"{name}.json") for name in ("train", "evaluate")]
    overrides = {"bundle_root": str(bundle), "dataset_dir": str(cohort)}
    workflow = ConfigWorkflow(configs, workflow_type="train", output_dir=str(tmp_path / "theirs"), **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    run_workflow(
        bundle, ["inference", "evaluate"], "inference", dataset_dir=str(cohort), output_dir=str(tmp_path / "ours")
    )
    for table in ("scores.csv", "metrics.csv", "regions.csv"):
        assert (tmp_path / "theirs" / table).read_text() == (tmp_path / "ours" / table).read_text()


def test_a_bundles_evaluation_has_what_its_inference_has(bundle: Path) -> None:
    inference, evaluation = (json.loads((bundle / "configs" / f"{name}.json").read_text()) for name in CONFIGS[1:3])
    base = {"imports", "format_version", "bundle_root", "dataset_dir", "device", "settings"}  # train.json has them too
    changed = {"dataset", "handlers", "metrics", "run", "check_truth"}
    assert set(evaluation) == set(inference) - base | {"metrics"}
    assert {name: evaluation[name] for name in set(evaluation) - changed} == {
        name: inference[name] for name in set(inference) - base - changed
    }
    assert evaluation["dataset"] == {**inference["dataset"], "data": "@share"}
    assert evaluation["handlers"][:-2] == inference["handlers"]
    assert evaluation["run"][0] == inference["run"][0]
    assert (inference["check_truth"], evaluation["check_truth"]) == (False, True)


@pytest.fixture(scope="module")
def one_scan(cohort: Path) -> str:
    return str(cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz")


def test_the_zoos_output_ids_are_honoured(bundle: Path, one_scan: str, tmp_path: Path) -> None:
    root = str(bundle)
    choice = {"output_ext": ".nii", "output_dtype": "$__import__('numpy').float64", "output_postfix": "trans"}
    workflow = ConfigWorkflow(
        f"{root}/configs/inference.json", workflow_type="inference", bundle_root=root, dataset_dir=one_scan,
        output_dir=str(tmp_path), separate_folder=True, **choice,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    name = "test_abnormal_000"
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
        f"{name}_{postfix}.nii" for postfix in ("mask", "percentile", "trans")
    ]
    images = {postfix: nib.load(tmp_path / name / f"{name}_{postfix}.nii") for postfix in ("mask", "trans")}
    assert images["trans"].get_data_dtype() == np.float64
    assert images["mask"].get_data_dtype() == np.uint8
    assert np.array_equal(images["trans"].affine, nib.load(one_scan).affine)


@pytest.mark.parametrize("extension", [".nrrd", ".mha", ".mgz"])
def test_the_command_line_follows_them_as_well(bundle: Path, one_scan: str, tmp_path: Path, extension: str) -> None:
    choice = {"output_ext": extension, "separate_folder": True, "output_postfix": "trans"}
    outcome = infer(bundle, [one_scan], tmp_path, **choice)
    assert outcome.report is not None
    assert "test_abnormal_000" in outcome.report.read_text()
    written = tmp_path / "test_abnormal_000" / f"test_abnormal_000_trans{extension}"
    before = written.stat().st_mtime_ns
    assert len(infer(bundle, [one_scan], tmp_path, report=False, **choice).scans) == 1
    assert written.stat().st_mtime_ns == before, "a scan that is finished is left alone"
    infer(bundle, [one_scan], tmp_path, report=False)
    assert (tmp_path / "test_abnormal_000_anomaly.nii.gz").is_file()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"output_postfix": "mask"}, "must not be that of another output"),
        ({"output_ext": ".png"}, "`output_ext` must be one of"),
        ({"output_dtype": "uint8"}, "`output_dtype` must be one of"),
    ],
)
def test_outputs_that_cannot_be_are_refused(
    bundle: Path, one_scan: str, tmp_path: Path, choice: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        infer(bundle, [one_scan], tmp_path / "out", report=False, **choice)


def test_what_may_be_displayed_takes_effect(bundle: Path) -> None:
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    assert set(config["displayable_configs"]) == {"false_regions", "min_region_volume", "batch_size"}
    assert not {*config["displayable_configs"], *OUTPUT_IDS} & set(config["settings"])  # else they would win
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    parser["displayable_configs"]["false_regions"] = 0.25
    parser["displayable_configs#batch_size"] = 3
    assert parser.get_parsed_content("values")["false_regions"] == 0.25
    assert parser.get_parsed_content("inferer").batch_size == 3


def test_each_step_of_the_preprocessing_can_be_changed(bundle: Path, one_scan: str) -> None:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    item = {"image": one_scan, "name": "scan"}
    ours, theirs = (
        chain(item)["image"]
        for chain in (
            preprocess_scan(read_settings(bundle)["intensity"]),
            parser.get_parsed_content("preprocessing"),
        )
    )
    assert torch.equal(ours, theirs)
    assert torch.equal(ours.affine, theirs.affine)
    parser["preprocessing#transforms#3#method"] = "percentile"
    parser["preprocessing#transforms#4#margin"] = 2
    parser.parse(reset=True)
    changed = parser.get_parsed_content("preprocessing")(item)["image"]
    assert [a - b for a, b in zip(changed.shape, ours.shape, strict=True)] == [0, 4, 4, 0]  # the head fills all slices
    assert torch.equal(changed[:, 2:-2, 2:-2], preprocess_scan("percentile")(item)["image"])


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_training_initialises_runs_and_finalises(
    cohort: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    root = create_bundle(tmp_path / "bundle")
    monkeypatch.chdir(root if inside else tmp_path)
    overrides = {**FAST, "max_epochs": 1, "embedder_name": str(tiny_vit), "dataset_dir": str(cohort)}
    run_workflow("." if inside else root, ["train"], "train", **overrides)
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    assert all(np.isfinite(value.float().numpy()).all() for name, value in state.items() if "state" in name)
    assert state["detector.mixture.fitted"]


def test_the_readme_has_the_zoos_headings_and_a_command_for_each_config() -> None:
    text = (TEMPLATE / "docs" / "README.md").read_text()
    headings = [re.sub(r"[#* ]+", " ", line).strip() for line in text.splitlines() if line.startswith("#")]
    assert [heading for heading in headings if heading in HEADINGS] == list(HEADINGS)
    commands = " ".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL))
    assert all(f"configs/{name}.json" in commands for name in CONFIGS)
    assert "verify_net_in_out" in commands
    assert "ckpt_export" in commands
