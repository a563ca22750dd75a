# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The names that the package's root hands on."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import monai_dpmm_ad

#: They take minutes, a network, or several processes.
CANNOT_RUN = ("demo", "push_bundle", "join_processes")


def names_for_type_checkers() -> set[str]:
    tree = ast.parse(Path(monai_dpmm_ad.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_type_checkers_see_what_there_is() -> None:
    assert sorted(names_for_type_checkers()) == dir(monai_dpmm_ad)


@pytest.mark.parametrize("name", dir(monai_dpmm_ad))
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(monai_dpmm_ad, name)
    assert found.__name__ == name
    assert found.__doc__


@pytest.mark.parametrize("name", dir(monai_dpmm_ad))
def test_every_name_has_an_example_that_runs(name: str) -> None:
    examples = doctest.DocTestParser().get_examples(getattr(monai_dpmm_ad, name).__doc__)
    assert examples
    skipped = any(example.options.get(doctest.SKIP) for example in examples)
    assert skipped == (name in CANNOT_RUN)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="'monai_dpmm_ad' has no attribute 'nothing'"):
        monai_dpmm_ad.nothing  # noqa: B018


def test_importing_it_is_cheap() -> None:
    code = "import sys, monai_dpmm_ad; assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_and_a_bundles_settings_need_no_torch() -> None:
    code = "import sys; from monai_dpmm_ad.bundle import read_settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
