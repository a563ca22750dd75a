# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is checked before a long run: the device, the folder that is written to, paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_dpmm_ad.engines.resume import FOLDER
from monai_dpmm_ad.utils.files import PARTIAL, PathLike, remove_leftovers

__all__ = ["PathLike", "absolute_paths", "check_device", "check_writable", "make_absolute"]


def absolute_paths(paths: Sequence[PathLike]) -> list[str]:
    """Make paths absolute, so that no name can be read as an expression of the config."""
    return [str(Path(path).absolute()) for path in paths]


def make_absolute(overrides: dict[str, Any], name: str) -> None:
    if overrides.get(name) is not None:
        overrides[name] = str(Path(overrides[name]).absolute())


def check_device(overrides: Mapping[str, Any]) -> None:
    """Check that this machine has the device that the overrides name.

    Raises:
        ValueError: when it has not.
    """
    try:
        torch.empty(0, device=overrides.get("device", "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"`device` must be one that this machine has, got '{overrides['device']}'. Try cpu."
        ) from error


def check_writable(folder: Path) -> None:
    """Find out before the long work whether results can be written at all; clear what a killed run left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder, folder / FOLDER)
    probe = folder / f"{PARTIAL}probe"
    try:
        probe.write_bytes(bytes(4096))
    finally:
        probe.unlink(missing_ok=True)
