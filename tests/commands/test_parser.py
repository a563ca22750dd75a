# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the help says is true, and says enough."""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from monai_dpmm_ad import commands
from monai_dpmm_ad.bundle import SETTINGS
from monai_dpmm_ad.bundle.export import export_network
from monai_dpmm_ad.clustering.grouping import LINKAGES
from monai_dpmm_ad.clustering.groups import WEIGHTS
from monai_dpmm_ad.clustering.instances import KINDS
from monai_dpmm_ad.commands.benchmark import benchmark
from monai_dpmm_ad.commands.bmad import DATASETS
from monai_dpmm_ad.commands.cluster import cluster
from monai_dpmm_ad.commands.parser import _make_parsers
from monai_dpmm_ad.detectors import DETECTORS
from monai_dpmm_ad.pretraining import Recipe, pretrain

PARSERS = _make_parsers()[1]
OPTIONS = [
    pytest.param(parser, action, id=f"{name} {(action.option_strings or [action.dest])[-1]}")
    for name, parser in PARSERS.items()
    for action in parser._actions
    if action.dest != "help"
]
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "demo": commands.demo,
    "cluster": cluster,
    "benchmark": benchmark,
    "export": export_network,
    "pretrain": pretrain,
}


def default_of(command: str, name: str) -> Any:
    """The default of a command's own argument, None where it has none to show."""
    if command == "pretrain" and name in {field.name for field in fields(Recipe)}:
        return getattr(Recipe(), name)
    known = inspect.signature(FUNCTIONS[command]).parameters if command in FUNCTIONS else {}
    return None if name not in known or known[name].default is inspect.Parameter.empty else known[name].default


@pytest.mark.parametrize(("parser", "action"), OPTIONS)
def test_every_option_tells_its_default(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    assert action.help
    told = re.search(r"\(default: (.+)\)$", action.help)
    is_file_of_talk = action.dest in ("log_file", "config")
    assert bool(told) == (action.nargs != 0 and not action.required and not is_file_of_talk)
    default = default_of(parser.prog.split()[-1], action.dest)
    if action.dest not in SETTINGS and told and default not in (None, ()):
        assert told[1] == (" ".join(map(str, default)) if isinstance(default, tuple) else str(default))


def test_every_choice_is_told() -> None:
    choices = {"items": KINDS, "linkage": LINKAGES, "weights": WEIGHTS}
    told = {action.dest: action.metavar for action in PARSERS["cluster"]._actions}
    for name, words in choices.items():
        assert told[name] == "{" + ",".join(words) + "}"
    for command, name, words in (
        ("fit", "detector_name", DETECTORS),
        ("benchmark", "detectors", DETECTORS),
        ("benchmark", "datasets", DATASETS),
    ):
        (text,) = (action.help for action in PARSERS[command]._actions if action.dest == name)
        assert set(words) <= set(re.findall(r"\w+", str(text)))
    for parser in PARSERS.values():
        for action in parser._actions:
            setting = SETTINGS.get(action.dest)
            if setting and setting.choices and parser.prog.endswith(setting.commands):
                assert action.metavar == "{" + ",".join(map(str, setting.choices)) + "}"


def test_what_a_setting_without_default_does_is_told() -> None:
    for setting in SETTINGS.values():
        if setting.commands and setting.kind is not bool:
            assert bool(setting.unset) == (setting.default in (None, {})), setting.name


def test_all_commands_choose_the_device_alike() -> None:
    told = {
        name: (action.metavar, action.help)
        for name, parser in PARSERS.items()
        for action in parser._actions
        if action.dest == "device"
    }
    assert set(told) == {"demo", "fit", "infer", "evaluate", "compare", "cluster", "benchmark", "pretrain"}
    assert len(set(told.values())) == 1


def test_proper_names_keep_their_capitals() -> None:
    text = "\n".join(parser.format_help() for parser in PARSERS.values()).replace("(default: onnx)", "")
    names = {"DICOM": "dicom", "BMAD": "bmad", "ONNX": "onnx", "MONAI": "monai"}
    for proper, small in names.items():
        assert proper in text
        # what remains small is an option, its value, or this program's name
        assert not re.search(rf"(?<![-{{\w]){small}(?![-,\w])", text), small
    for parser in PARSERS.values():
        assert re.match("[A-Z]", str(parser.description))


def test_help_needs_no_torch() -> None:
    code = "import sys, monai_dpmm_ad.commands.parser as p; p.make_parser(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
