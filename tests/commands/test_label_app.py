# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from monai_dpmm_ad.commands import cli

SOURCE = Path(__file__).parents[2] / "bundles" / "label_app" / "main.py"


def test_the_command_prints_the_apps_path_and_the_whole_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["label-app", "--studies", "new scans", "--bundle", "b"]) == 0
    assert cli.main(["label-app"]) == 0  # once more is no harm
    lines = capsys.readouterr().out.splitlines()
    app = tmp_path / "label_app"
    assert lines[0] == lines[2] == f"app: {app}"
    assert (app / "main.py").read_bytes() == SOURCE.read_bytes()
    words = shlex.split(lines[1].removeprefix("start: "))
    assert words[1:6] == ["-m", "monailabel.main", "start_server", "--app", str(app)]
    options = dict(zip(words[4::2], words[5::2], strict=False))
    assert options["--host"] == "127.0.0.1"
    assert options["--uvicorn_app"] == "monai_dpmm_ad.label.server:app"
    assert options["--studies"] == "new scans"
    assert words[-3:] == ["--conf", "bundle", "b"]
    assert shlex.split(lines[3])[-3:] == ["--conf", "bundle", "BUNDLE"]


def test_the_command_works_from_any_folder_and_says_what_is_not_there(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    (tmp_path / "b").symlink_to(bundle)
    assert cli.main(["label-app", "--studies", "scans", "--bundle", "b"]) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err
    assert said.out.splitlines()[1].endswith(f"--conf bundle {tmp_path / 'b'}")
    assert f"--studies {tmp_path / 'scans'} " in said.out
    assert cli.main(["label-app", "--studies", "http://dicom/web", "--bundle", "scans"]) == 0
    said = capsys.readouterr()
    assert "warning: scans: is no bundle on this machine" in said.err
    assert "http" not in said.err


def test_another_apps_main_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.py").write_text("another")
    assert cli.main(["label-app", "--out", str(tmp_path)]) == 1
    assert "main.py: is another app's" in capsys.readouterr().err
    assert (tmp_path / "main.py").read_text() == "another"
