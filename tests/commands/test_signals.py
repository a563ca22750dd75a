# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C and SIGTERM end every command with the status that shells know, and with a true sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_dpmm_ad.commands import cli
from monai_dpmm_ad.commands.checks import hold_bundle, hold_output
from monai_dpmm_ad.commands.signals import end_on_signals, exit_status
from monai_dpmm_ad.utils.files import PARTIAL

OUT = ("--out", "x")
ARGUMENTS = {
    "demo": [*OUT],
    "fit": ["--images", "x", *OUT],
    "infer": ["--images", "x", "--bundle", "x", *OUT],
    "evaluate": ["--data", "x", "--bundle", "x", *OUT],
    "compare": ["--before", "x", "--after", "x", "--bundle", "x", *OUT],
    "cluster": ["--images", "x", "--bundle", "x", *OUT],
    "benchmark": ["--data", "x", "--dataset", "x", *OUT],
    "export": ["--bundle", "x", *OUT],
    "pack": ["x", "--out", "x.zip"],
    "unpack": ["x.zip", *OUT],
    "pretrain": ["--images", "x", *OUT],
    "label-app": [],
    "embedders": [],
}
GO_ON = ("demo", "fit", "infer", "benchmark", "pretrain")


@pytest.fixture(autouse=True)
def _sigint_is_heard() -> Iterator[None]:
    """A shell lets what it runs in the background ignore Ctrl-C; Python then leaves it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_every_command_is_looked_at() -> None:
    assert set(ARGUMENTS) == set(cli._RUNNERS)


@pytest.mark.parametrize("raises", [True, False])
def test_a_signal_that_compiled_code_swallows_ends_a_command_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raises: bool
) -> None:
    def run(options: dict[str, Any]) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        if raises:
            raise TypeError("incompatible function arguments")
        return 1  # a scan has failed

    monkeypatch.setitem(cli._RUNNERS, "infer", run)
    assert cli.main(["infer", *ARGUMENTS["infer"]]) == 143
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, number: int, status: int
) -> None:
    def run(options: dict[str, Any]) -> int:
        signal.raise_signal(number)
        raise AssertionError("the signal did not end it")

    monkeypatch.setitem(cli._RUNNERS, command, run)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main([command, *ARGUMENTS[command]]) == status
    assert signal.getsignal(signal.SIGTERM) == before
    what_next = "continues" if command in GO_ON else "begins again"
    assert capsys.readouterr().err == f"interrupted; the same command {what_next}\n"


def test_the_learning_of_a_site_begins_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli._RUNNERS, "fit", lambda options: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["fit", *ARGUMENTS["fit"], "--update", "x", "--site", "north"]) == 143
    assert capsys.readouterr().err == "interrupted; the same command begins again\n"


def test_a_signal_before_the_command_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "parse_arguments", lambda arguments: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["infer", *ARGUMENTS["infer"]]) == 143
    assert capsys.readouterr().err == "interrupted; the same command begins again\n"


def test_a_signal_that_an_import_wraps_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: dict[str, Any]) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise ImportError("problem in a module - Terminated")  # noqa: B904 (as pydoc.locate does)
        return 0

    monkeypatch.setitem(cli._RUNNERS, "infer", run)
    assert cli.main(["infer", *ARGUMENTS["infer"]]) == 143
    assert capsys.readouterr().err == "interrupted; the same command continues\n"


def test_a_second_signal_does_not_disturb_the_tidying_up() -> None:
    with pytest.raises(KeyboardInterrupt), end_on_signals():  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            tidied = True
    assert tidied


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_finaliser_is_not_lost(number: int) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(number)

    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt) as raised, end_on_signals():  # noqa: PT012
        Dying()
        for _ in range(3000):
            time.sleep(0.01)
    assert exit_status(raised.value) == 128 + number
    assert sys.unraisablehook is hook


def test_a_thread_leaves_signals_alone() -> None:
    done = []

    def run() -> None:
        with end_on_signals():
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


@pytest.mark.parametrize("hold", [hold_output, hold_bundle])
def test_a_signal_between_a_temporary_file_and_its_removal_leaves_none(tmp_path: Path, hold: Any) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), hold(out):  # noqa: PT012
        (out / ".finished").mkdir()
        (out / ".finished" / f"{PARTIAL}a.json").touch()
        (out / f"{PARTIAL}b.nii.gz").touch()
        raise KeyboardInterrupt
    assert sorted(os.listdir(out)) == [".finished", ".lock"]
    assert not os.listdir(out / ".finished")
