# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A few kills of each command; ``tests/soak/interruptions.py`` does fifty."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "soak" / "interruptions.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("command", "kills", "number"),
    [
        *(("fit", 5, "KILL"), ("infer", 5, "KILL"), ("pretrain", 2, "KILL")),
        *((command, 2, "TERM") for command in ("fit", "infer", "evaluate", "cluster", "export")),
        ("pretrain", 1, "TERM"),
        ("infer", 2, "INT"),
    ],
)
def test_an_interrupted_command_comes_to_the_same_result(command: str, kills: int, number: str) -> None:
    # A process of its own, since a fork of this one would take along whatever other tests have started.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", str(kills), "--signal", number, "--commands", command],
        capture_output=True,
        text=True,
        timeout=550,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert json.loads(finished.stdout.splitlines()[-1])["kills"] == kills
