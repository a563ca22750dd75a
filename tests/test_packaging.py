# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_the_bundle_the_weights_and_the_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "monai_dpmm_ad").rglob("*.py")}
    bundle = [path for path in (ROOT / "bundles" / "dpmm_ad").rglob("*") if path.is_file()]
    bundle.append(ROOT / "bundles" / "label_app" / "main.py")
    wanted |= {f"monai_dpmm_ad/{path.relative_to(ROOT).as_posix()}" for path in bundle}
    for folder, pattern in (("embedding/weights/compact", "*"), ("reporting", "report.*")):
        found = (ROOT / "monai_dpmm_ad" / folder).glob(pattern)
        wanted |= {path.relative_to(ROOT).as_posix() for path in found if path.is_file()}
    assert not wanted - names
    assert not [name for name in names if name.startswith("tests/")]


def test_importing_the_command_line_is_cheap() -> None:
    code = "import sys, monai_dpmm_ad.commands.cli; assert not {'torch', 'monai', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
