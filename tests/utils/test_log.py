# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from pathlib import Path

import pytest

from monai_dpmm_ad.utils import progress
from monai_dpmm_ad.utils.log import LOG, PROGRESS, RESULTS, logging_to
from monai_dpmm_ad.utils.progress import quiet_warnings, track


def say_everything() -> None:
    RESULTS.info("results: here")
    LOG.info("note: so")
    PROGRESS.info("Embedding: 1 of 2")
    logging.getLogger("a.library").warning("chatter")
    warnings.warn("odd", UserWarning, stacklevel=1)
    warnings.warn("odd", UserWarning, stacklevel=1)  # from elsewhere: said once
    LOG.error("error: bad")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ({}, ["results: here"], ["note: so", "Embedding: 1 of 2", "warning: odd", "error: bad"]),
        ({"quiet": True}, [], ["warning: odd", "error: bad"]),
        (
            {"verbose": True},
            ["results: here"],
            ["note: so", "Embedding: 1 of 2", "a.library: chatter", "warning: odd", "error: bad"],
        ),
    ],
)
def test_what_is_said_where(
    options: dict[str, bool], out: list[str], err: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text("before\n")
    with logging_to(**options, file=tmp_path / "log"):
        say_everything()
    assert [text.splitlines() for text in capsys.readouterr()] == [out, err]
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "before", "a log is added to"
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line) for line in lines[1:])
    said = {line[24:] for line in lines[1:]}
    assert said >= {"results: here", "note: so", "Embedding: 1 of 2", "warning: odd", "error: bad"}
    assert ("chatter" in said) == bool(options.get("verbose"))


def test_everything_is_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    root, disabled, show = logging.getLogger(), logging.root.manager.disable, warnings.showwarning
    state = [(logger.level, logger.handlers[:], logger.propagate) for logger in (root, LOG, RESULTS, PROGRESS)]
    with pytest.raises(KeyError), logging_to(verbose=True):
        raise KeyError
    assert state == [(logger.level, logger.handlers, logger.propagate) for logger in (root, LOG, RESULTS, PROGRESS)]
    assert (disabled, show) == (logging.root.manager.disable, warnings.showwarning)
    say_nothing_unasked(capsys)


def say_nothing_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    LOG.info("note: so")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_bars_instead_of_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with logging_to(file=tmp_path / "log"):
        PROGRESS.info("Embedding: 1 of 2")
    assert terminal.getvalue() == ""
    assert "Embedding: 1 of 2" in (tmp_path / "log").read_text()


def test_only_the_first_of_several_processes_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with logging_to():
        PROGRESS.info("Embedding: 1 of 2")
    assert capsys.readouterr().err == ""


def test_a_step_has_a_line_every_so_often_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(now)))
    with logging_to():
        assert list(track(range(7), total=7, description="Embedding")) == list(range(7))
    assert capsys.readouterr().err.splitlines() == [
        "Embedding: 3 of 7, 6.0 a minute, 0:00:40 left",
        "Embedding: 6 of 7, 6.0 a minute, 0:00:10 left",
        "Embedding: 7 of 7, 6.0 a minute, took 0:01:10",
    ]


def test_a_short_step_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to():
        assert list(track(range(3), total=3, description="Embedding")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_libraries_are_quieted_but_where_they_may_speak() -> None:
    ignite = logging.getLogger("ignite")
    with logging_to(verbose=True):
        quiet_warnings()
        assert ignite.isEnabledFor(logging.INFO)
    quiet_warnings()
    assert not ignite.isEnabledFor(logging.INFO)


def test_what_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left"), logging_to():
        RESULTS.info("results: here")
