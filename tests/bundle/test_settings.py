# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A setting stands once: parser, configs, checks and lists follow from its declaration."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from monai_dpmm_ad.bundle import SETTINGS, complete_settings, load_workflow, pick_settings, save_model
from monai_dpmm_ad.bundle.folder import create_bundle
from monai_dpmm_ad.bundle.setting import ROLES, Setting
from monai_dpmm_ad.bundle.update import read_update_settings
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.parser import make_parser
from monai_dpmm_ad.detectors import DETECTORS
from monai_dpmm_ad.detectors.dpmm import SCORES
from monai_dpmm_ad.mixture.families import COVARIANCES
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.intensity_tail import TAILS
from monai_dpmm_ad.network.patch_mask import PATCH_MASKS
from monai_dpmm_ad.network.upsampling import REFINEMENTS
from monai_dpmm_ad.normative import FRAMES, SIDES
from monai_dpmm_ad.ops.pooling import POOLING_METHODS
from monai_dpmm_ad.ops.slices import AUTO, AXES
from monai_dpmm_ad.transforms.intensity import INTENSITY_METHODS
from monai_dpmm_ad.transforms.pipeline import EXCLUDES
from monai_dpmm_ad.transforms.slices import SELECTIONS

TEMPLATE = Path(__file__).parents[2] / "bundles" / "dpmm_ad"


@pytest.mark.parametrize(
    ("name", "options"),
    {
        "score": SCORES,
        "covariance": COVARIANCES,
        "intensity_tail": ("none", *TAILS),
        "patch_mask": PATCH_MASKS,
        "upsampling": REFINEMENTS,
        "pooling": ("auto", *POOLING_METHODS),
        "frame": ("auto", *FRAMES),
        "intensity_side": SIDES,
        "axes": (AUTO, *AXES),
        "intensity": INTENSITY_METHODS,
        "exclude_label": EXCLUDES,
        "slice_selection": SELECTIONS,
    }.items(),
)
def test_choices_are_those_of_the_code(name: str, options: tuple[str, ...]) -> None:
    assert set(SETTINGS[name].choices) == set(options)


def test_defaults_are_settings() -> None:
    for way in ("fit", "run"):
        values = complete_settings({}, way)
        assert complete_settings(values, way) == values
    assert all(setting.role in ROLES for setting in SETTINGS.values())
    assert SETTINGS["detector_name"].default in DETECTORS


def test_defaults_are_not_shared() -> None:
    complete_settings({}, "run")["axes"].append("coronal")
    assert complete_settings({}, "run")["axes"] == ["auto"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (Setting("a", 1, "", "run", kind=int), 3),
        (Setting("a", None, "", "run", kind=int), None),
        (Setting("a", "test", "", "run", optional=True), None),
        (Setting("a", 1.0, "", "run", kind=float, interval="(0, 1]"), 1),
        (Setting("a", [1], "", "run", kind=int, many=True, words=("all",)), "all"),
        (Setting("a", {}, "", "run", kind=dict), {"b": [1, {"c": None}]}),
    ],
)
def test_what_a_setting_takes(setting: Setting, value: object) -> None:
    assert setting.check(value) == value


def test_a_tuple_is_a_list() -> None:
    assert SETTINGS["axes"].check(("axial", "coronal")) == ["axial", "coronal"]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        (Setting("a", 1, "", "run", kind=int), True, "whole number, got True"),
        (Setting("a", 1, "", "run", kind=int), 1.0, "whole number, got 1.0"),
        (Setting("a", 1.0, "", "run", kind=float), float("inf"), "a number, got inf"),
        (Setting("a", 1.0, "", "run", kind=float, interval="(0, 1]"), 0, r"lie in \(0, 1\], got 0"),
        (Setting("a", 1.0, "", "run", kind=float, interval="[0, 1)"), 1, r"lie in \[0, 1\), got 1"),
        (Setting("a", False, "", "run", kind=bool), 1, "true or false, got 1"),
        (Setting("a", [1], "", "run", kind=int, many=True), [], "a list of a whole number"),
        (Setting("a", "b", "", "run", choices=("blue", "red")), "bleu", "Did you mean 'blue'"),
        (Setting("a", "b", "", "run"), None, "a text, got None"),
        (Setting("a", {}, "", "run", kind=dict), {"b": {"_target_": 1}}, "plain names as keys"),
    ],
)
def test_what_a_setting_refuses(setting: Setting, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting.check(value)


def test_every_option_of_the_command_line_is_a_declaration() -> None:
    given = {"fit": ["--images", "a", "--out", "b"], "infer": ["--bundle", "a", "--images", "b", "--out", "c"]}
    for command, required in given.items():
        known = vars(make_parser().parse_args([command, *required]))
        assert {name for name in known if name in SETTINGS} == {
            name for name, setting in SETTINGS.items() if command in setting.commands
        }
        assert all(known[name] is None for name in known if name in SETTINGS)  # the bundle's own stay


def test_a_new_setting_is_one_declaration_and_the_code_that_uses_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        SETTINGS, "sharpness", Setting("sharpness", 1.0, "of the map", "model", kind=float, commands=("fit",))
    )

    class SharpNet(AnomalyNet):
        def __init__(self, *arguments: object, sharpness: float = 1.0, **options: object) -> None:
            super().__init__(*arguments, **options)
            self.sharpness = sharpness

    own = inspect.signature(AnomalyNet)
    added = inspect.Parameter("sharpness", inspect.Parameter.KEYWORD_ONLY)
    SharpNet.__signature__ = own.replace(parameters=[*own.parameters.values(), added])
    monkeypatch.setattr("monai_dpmm_ad.bundle.parts.AnomalyNet", SharpNet)
    # the command line
    parsed = make_parser().parse_args(["fit", "--images", "a", "--out", "b", "--sharpness", "2"])
    assert parsed.sharpness == 2
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "--sharpness NUMBER of the map (default: 1.0)" in " ".join(capsys.readouterr().out.split())
    # a bundle that was fitted before, and one that is fitted with it
    assert load_workflow(bundle, ["inference"], "inference").parser.get_parsed_content("network_def").sharpness == 1
    root = create_bundle(tmp_path / "new")
    values = complete_settings({"sharpness": 2}, "fit")
    network = load_workflow(bundle, ["inference"], "inference", sharpness=2).parser.get_parsed_content("network_def")
    assert network.sharpness == 2
    save_model(root, network, values)
    assert json.loads((root / "configs" / "inference.json").read_text())["settings"]["sharpness"] == 2
    # an update, and a restart
    with pytest.raises(ValueError, match="`sharpness` must be the bundle's own, 1"):
        read_update_settings(bundle, {"sharpness": 2})
    assert pick_settings(values, "outputs")["sharpness"] == 2


def test_monais_own_command_line_sets_them(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{bundle}/configs/inference.json"]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(cohort), "--output_dir", str(tmp_path)]
    command += ["--settings#section", "validation", "--settings#save_maps", "false", "--settings#axes", "['coronal']"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert "`save_maps` must be true or false, got 'false'" in finished.stderr  # Python's own words are the values
    command[-3] = "False"
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert not list(tmp_path.glob("*.nii.gz"))
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3
