# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Loading a file never runs code: no call that could unpickle, in the package, its bundles, scripts and benchmarks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("monai_dpmm_ad", "bundles", "benchmarks", ".ci")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
#: The exception that torch raises on a damaged file: naming it loads nothing.
HARMLESS = {"pickle.UnpicklingError"}


def dotted(node: ast.expr | None) -> str:
    """``a.b.c`` of an attribute chain, empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def find_unsafe(source: str) -> Iterator[str]:
    """Yield what in a source could unpickle, with its line."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # what the file calls a thing: its full name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and dotted(node):
            head, _, rest = dotted(node).partition(".")
            full = ".".join(filter(None, (names.get(head, head), rest)))
            if head in names and full.split(".")[0] in MODULES and full not in MODULES | HARMLESS:
                yield f"{node.lineno}: {full}"
        if isinstance(node, ast.Call):
            head, _, rest = dotted(node.func).partition(".")
            full = ".".join(filter(None, (names.get(head, head), rest)))
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if full in ("torch.load", "torch.serialization.load") and not is_constant(given.get("weights_only"), True):
                yield f"{node.lineno}: {full} without weights_only=True"
            if full in ("numpy.load", "numpy.lib.npyio.load") and not is_constant(
                given.get("allow_pickle", ast.Constant(False)), False
            ):
                yield f"{node.lineno}: {full} with allow_pickle"
            if full == "yaml.load" and dotted(given.get("Loader")).endswith("BaseLoader"):
                continue
            if full in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "pd.read_pickle"):
                yield f"{node.lineno}: {full}"


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    assert list(find_unsafe(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.load(f)",
        "from pickle import loads\nloads(b'')",
        "from joblib import load as read\nread('x')",
        "import dill\nf = dill.load",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "from torch import load\nload('x', weights_only=flag)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import pandas as pd\npd.read_pickle('x')",
    ],
)
def test_the_search_finds_every_kind(source: str) -> None:
    assert list(find_unsafe(source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x', map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load('x')",
        "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.BaseLoader)",  # gives nothing but text
        "import json\njson.load(f)",
    ],
)
def test_the_search_leaves_what_is_safe(source: str) -> None:
    assert not list(find_unsafe(source))
