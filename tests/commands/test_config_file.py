# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Options from a YAML file mean what they mean on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.parser import parse_arguments

CONFIG = """
images: [a, b]            # several values
out: bundle
image-size: 112
patch_fraction: 1e-1      # the dash of the option or the underscore of the argument
normative: off            # the word, not YAML's false
rotations: [-10, 0, 10]
suffix: "0000"
detector-option: {num_components: 8, covariance: full}
quiet: true
verbose: false
"""
WORDS = [
    *("--images", "a", "b", "--out", "bundle", "--image-size", "112", "--patch-fraction", "0.1", "--normative", "off"),
    *("--rotations", "-10", "0", "10", "--suffix", "0000", "--quiet"),
    *("--detector-option", "num_components=8", "--detector-option", "covariance=full"),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "fit.yaml").write_text(CONFIG)
    return tmp_path / "fit.yaml"


def test_a_file_says_what_the_command_line_says(config: Path) -> None:
    read = parse_arguments(["fit", "--config", str(config)])
    assert read == parse_arguments(["fit", *WORDS])
    assert read["suffix"] == ["0000"]
    assert read["normative"] == "off"


@pytest.mark.parametrize("before", [True, False])
def test_the_command_line_wins(config: Path, before: bool) -> None:
    named, own = ["--config", str(config)], ["--image-size", "224", "--images", "c"]
    read = parse_arguments(["fit", *named, *own] if before else ["fit", *own, *named])
    assert (read["image_size"], read["images"], read["out"]) == (224, ["c"], "bundle")


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert parse_arguments(["embedders", f"--config={tmp_path / 'empty.yaml'}"]) == {"command": "embedders"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("imagesize: 3", "`imagesize` is no option of monai-dpmm-ad fit. Did you mean `image-size`?"),
        ("config: other.yaml", "`config` is no option"),
        ("image-size:", "`image-size` must have a value"),
        ("images: []", "`images` must have a value"),
        ("images: [[a]]", "`images` must have a value"),
        ("debug: maybe", "`debug` must be true or false, got 'maybe'"),
        ("- a", "must hold lines of the form NAME: VALUE"),
        ("a: [", "is no YAML"),
        ("a: !!python/object/apply:os.system [exit]", "`a` is no option"),
        ("\x00", "is no YAML"),
    ],
)
def test_what_a_file_must_not_say(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(content)
    assert main(["fit", "--config", str(path), "--images", "a", "--out", str(tmp_path / "b")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert message in line
    assert not (tmp_path / "b").exists()


def test_files_that_cannot_be_opened_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--config", "--log-file"):
        assert main(["embedders", option, str(tmp_path / "no" / "file")]) == 1
        assert capsys.readouterr().err == f"error: {tmp_path / 'no' / 'file'}: No such file or directory\n"
