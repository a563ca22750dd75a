# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Every command of docs/tutorial.md, in its order; what the page says is there afterwards."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.label_app import start_command

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
SERVING = ROOT / "tests" / "label" / "serving.py"
#: What the commands write, as the page names it.
WRITTEN = (
    *("scans/datalist.json", "maps/test_abnormal_000_anomaly.nii.gz", "maps/test_abnormal_000_mask.nii.gz"),
    *("maps/scores.csv", "maps/report.html", "results/metrics.json"),
)

pytestmark = pytest.mark.filterwarnings("default")  # the command line prints warnings in its own way


def read_commands() -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def run(command: list[str]) -> None:
    if command[0] == "monai-dpmm-ad":
        assert main(command[1:]) == 0, command
        return
    assert command[0] == "python", command
    finished = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-4000:]


@pytest.mark.slow
def test_every_command_runs_and_writes_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = read_commands()
    assert commands[0][:2] == ["pip", "install"]
    assert commands[-1][1] == "label-app"  # a server of another environment: the test below follows it
    monkeypatch.chdir(tmp_path)
    for command in commands[1:-1]:
        run(command)
    text = TUTORIAL.read_text(encoding="utf-8")
    for name in WRITTEN:
        assert f"`{name}`" in text
        assert (tmp_path / name).is_file(), name
    assert len(list((tmp_path / "scans" / "imagesTr").glob("train_*.nii.gz"))) == 10
    assert not (tmp_path / "maps" / "failures.csv").exists()
    name = "test_abnormal_000_anomaly.nii.gz"
    ours, theirs = (nib.load(tmp_path / folder / name) for folder in ("maps", "monai_maps"))
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    assert torch.jit.load(tmp_path / "model.ts")(torch.zeros(1, 1, 112, 112)).shape == (1, 1, 112, 112)


def test_the_extras_that_are_installed_exist() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = re.fullmatch(r"\.\[(.*)\]", read_commands()[0][-1])
    assert named
    assert set(named[1].split(",")) <= set(config["options.extras_require"])


@pytest.mark.skipif(not SERVING.exists(), reason="the tests of MONAI Label are not part of this tree")
def test_the_server_is_started_as_its_own_tests_start_it(tmp_path: Path) -> None:
    told = read_commands()[-1]
    assert "label-app" in told
    studies, bundle = (told[told.index(option) + 1] for option in ("--studies", "--bundle"))
    command = shlex.split(start_command(tmp_path, studies=studies, bundle=bundle))
    started = [
        [element.value for element in node.elts if isinstance(element, ast.Constant)]
        for node in ast.walk(ast.parse(SERVING.read_text(encoding="utf-8")))
        if isinstance(node, ast.List)
    ]
    theirs = {word for words in started for word in words if isinstance(word, str)}
    ours = [word for word in command[1:] if word.startswith("-") or word in ("monailabel.main", "start_server")]
    assert ours[:3] == ["-m", "monailabel.main", "start_server"]
    assert set(ours) <= theirs
    assert command[command.index("--conf") + 1] == "bundle"


def test_links_of_the_page_lead_somewhere() -> None:
    names = re.findall(r"\]\(([^)#]+)", TUTORIAL.read_text(encoding="utf-8"))
    assert names
    for name in names:
        assert (TUTORIAL.parent / name).is_file(), name
