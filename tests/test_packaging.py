# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_what_the_package_needs_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("monai_dpmm_ad", "bundles"):
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wanted = {path.relative_to(source).as_posix() for path in (source / "monai_dpmm_ad").rglob("*.py")}
    bundle = ["LICENSE", *(f"configs/{file.name}" for file in (source / "bundles/dpmm_ad/configs").glob("*.json"))]
    bundle += ["configs/logging.conf", "docs/README.md", "docs/data_license.txt"]
    wanted |= {f"monai_dpmm_ad/bundles/dpmm_ad/{name}" for name in bundle}
    wanted |= {"monai_dpmm_ad/bundles/label_app/main.py", "monai_dpmm_ad/py.typed"}
    wanted |= {"monai_dpmm_ad/bundle/card.md", "monai_dpmm_ad/bundle/meta_schema_20240725.json"}
    for folder, pattern in (("embedding/weights/compact", "*"), ("reporting", "report.*")):
        found = (source / "monai_dpmm_ad" / folder).glob(pattern)
        wanted |= {path.relative_to(source).as_posix() for path in found if path.is_file()}
    # What a server that was run in the checkout, a fit into it and an editor leave behind.
    for name in (
        "label_app/logs/app.log",
        "label_app/model/m.pt",
        "dpmm_ad/models/model.pt",
        "dpmm_ad/fit/s.json",
    ):
        (source / "bundles" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "bundles" / name).write_text("names of studies")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
    assert next(tmp_path.glob("*.whl")).stat().st_size < 20e6
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == wanted


def test_importing_the_command_line_is_cheap() -> None:
    code = "import sys, monai_dpmm_ad.commands.cli; assert not {'torch', 'monai', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
