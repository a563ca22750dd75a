# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Imports go one way, rooms and files stay small; checked over the syntax trees. See docs/architecture.md."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

import pytest

from monai_dpmm_ad.detectors import DETECTORS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monai_dpmm_ad"

#: From the ground up; a room imports from the floors below its own, and from no room beside it.
LAYERS = [
    {"errors", "utils"},
    {"data", "ops"},
    {"embedding", "mixture", "normative", "calibration", "metrics"},
    {"transforms"},
    {"detectors", "pretraining"},
    {"network"},
    {"engines"},
    {"handlers"},
    {"bundle"},
    {"reporting"},
    {"clustering"},
    {"commands"},
    {"label"},
]
KNOWS_NOTHING_OF = {"ops": ("monai", "ignite", "transformers"), "mixture": ("monai", "ignite", "transformers")}
KNOWS_NOTHING_OF["metrics"] = KNOWS_NOTHING_OF["ops"]

ROOT_FILES = (PACKAGE / "__init__.py", PACKAGE / "__main__.py")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path not in ROOT_FILES)


def _module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _layer(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if module in layer)


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = _module(path)
    for name in _imports(path):
        if not name.startswith("monai_dpmm_ad."):
            continue
        other = name.split(".")[1]
        assert other == own or _layer(other) < _layer(own), f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers_do_not_know_their_adapters(path: Path) -> None:
    roots = {name.split(".")[0] for name in _imports(path)}
    assert not roots & set(KNOWS_NOTHING_OF.get(_module(path), ()))
    assert "pyro" not in roots or path == PACKAGE / "mixture" / "inference" / "pyro_model.py"
    assert "matplotlib" not in roots or _module(path) in ("reporting", "clustering")
    assert "torchvision" not in roots
    assert not roots & {"monailabel", "fastapi"} or _module(path) == "label"


def test_no_room_but_detectors_names_a_detectors_class() -> None:
    for path in FILES:
        if _module(path) != "detectors":
            names = {
                node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)
            }
            assert not names & {cls.__name__ for cls in DETECTORS.values()}, f"{path} asks which detector it has"


def test_the_root_and_its_files_can_be_taken_in_at_a_glance() -> None:
    entries = [path for path in PACKAGE.iterdir() if not path.name.startswith("__") and path.name != "py.typed"]
    assert len(entries) <= 20
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, path


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_imports_what_is_there(path: Path) -> None:
    """From its neighbours, which no other test imports: each name where it is made."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        neighbour = path.parent / f"{getattr(node, 'module', None)}.py"
        if isinstance(node, ast.ImportFrom) and neighbour.is_file():
            made = {
                getattr(name, "id", None) or getattr(name, "asname", None) or getattr(name, "name", None)
                for statement in ast.parse(neighbour.read_text(encoding="utf-8")).body
                for name in ast.walk(statement)
                if isinstance(name, (ast.FunctionDef, ast.ClassDef, ast.alias))
                or (isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))
            }
            for alias in node.names:
                assert alias.name in made, f"{path.name}: {alias.name} is not made in {neighbour.name}"


def test_every_package_is_installed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == found | {"monai_dpmm_ad.bundles"}
