# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Imports go one way, see the layers below; checked over the syntax trees."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monai_dpmm_ad"

LAYERS = [
    {"errors", "types"},
    {"cli_parser", "ops", "ahead", "files", "memory", "progress", "processes", "scan_paths"},
    {
        *("transforms", "embedding", "mixture", "metrics", "calibration"),
        *("lesions", "synthetic_lesions", "datalist", "intensity_tail", "drift"),
    },
    {"store_loader", "scans", "finished", "provenance", "bundle_configs", "phantoms", "detectors", "clustering"},
    {"network"},
    {"inferers", "scoring", "bundle", "fitting", "tail_fitting"},
    {"engines", "exporting", "items", "updating", "repeated"},
    {"handlers", "pretraining"},
    {"reporting"},
    {"anomaly_types"},
    {"commands"},
    {"cluster_command", "benchmark", "label_command"},
    {"cli", "label"},
]
KNOWS_NOTHING_OF = {"ops": ("monai", "ignite", "transformers"), "mixture": ("monai", "ignite", "transformers")}
KNOWS_NOTHING_OF["metrics"] = KNOWS_NOTHING_OF["ops"]

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


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
    assert "pyro" not in roots or path == PACKAGE / "mixture" / "pyro_model.py"
    assert "matplotlib" not in roots or _module(path) == "reporting"
    assert "torchvision" not in roots
    assert not roots & {"monailabel", "fastapi"} or _module(path) == "label"


def test_every_package_is_installed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == found | {"monai_dpmm_ad.bundles"}
