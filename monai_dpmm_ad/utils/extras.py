# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Packages that only an extra of this one brings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["import_extra"]


def import_extra(package: str, extra: str) -> Any:
    """Import a package that an extra brings.

    Args:
        package: its name.
        extra: of this package's ``setup.cfg``.

    Returns:
        The module.

    Raises:
        ImportError: when it is not installed, with the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is needed and not installed. Run: pip install 'monai-dpmm-ad[{extra}]'"
        ) from error
