# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Public names that import what defines them when they are first used (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["hand_on"]


def hand_on(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package that hands on names of other modules.

    Args:
        package: the package's ``__name__``.
        names: public name to the full name of the module that defines it.

    Returns:
        ``__getattr__`` and ``__dir__``, to be assigned in the package.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(names[name]), name)

    return get, lambda: sorted(names)
