# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The settings of a bundle on disk, whichever version of this package fitted it; importing this does not import torch.

``configs/inference.json`` holds ``format_version`` and ``settings``, plain values. Nothing else of it is read here, and
nothing of it is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle.settings import SETTINGS, complete_settings
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import read_json

__all__ = ["BROUGHT", "EVALUATE", "FORMAT_VERSION", "INFERENCE", "OWN_EMBEDDER", "place_settings", "read_settings"]

FORMAT_VERSION = 6
INFERENCE = Path("configs") / "inference.json"
EVALUATE = Path("configs") / "evaluate.json"
#: ``embedder_name`` of a bundle that was handed on with its embedder: this folder, from the bundle's.
OWN_EMBEDDER = "models/embedder"
#: Settings that the configs of MONAI's model zoo have as ids of their own.
_ZOO_IDS = ("output_ext", "output_dtype", "output_postfix", "separate_folder")
#: The id under which they have those that a program may offer its user.
_DISPLAYABLE = "displayable_configs"
_MAX_BYTES = 4 * 2**20

#: Format → the settings that came with it and what the package did before: older bundles run on with that. A setting
#: whose default does what was done before needs no new format and no entry.
BROUGHT: dict[int, dict[str, Any]] = {
    3: {"normative": "off", "pooling": "top1pct", "false_positive_rate": 0.01},
    4: {"asymmetry": "off"},
    5: {"slice_spacing": 0.0},
    6: {"axes": ["axial"]},
}


#: Former name of a setting → its name.
RENAMED = {"min_lesion_volume": "min_region_volume"}


def _take_top_level(config: Mapping[str, Any]) -> dict[str, Any]:
    """Format 1 had each setting as an id of its own."""
    return {"settings": {name: config[name] for name in (*SETTINGS, *RENAMED) if name in config}}


#: Format → what makes the next one of a config.
_MIGRATIONS: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _take_top_level}


def read_settings(bundle_root: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings of a bundle, of any format; what it lacks has the value that its version used.

    Args:
        bundle_root: folder of the bundle.

    Returns:
        Every setting of a run, checked.

    Raises:
        CheckpointError: when the file cannot be read, was written by a later version, or has a setting that is unknown
            or cannot have its value.

    Example:
        >>> from monai_dpmm_ad.bundle.folder import template
        >>> read_settings(template())["image_size"]
        224
    """
    path = Path(bundle_root) / INFERENCE
    try:
        config = read_json(path, _MAX_BYTES)
    except ValueError as error:
        raise CheckpointError(f"{error}. Copy the bundle again.") from error
    version = config.get("format_version", 1) if isinstance(config, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{path}: `format_version` must be a whole number, got {version}. Copy the bundle again.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format {version}, but this version of the package reads formats up to {FORMAT_VERSION}. "
            "Update monai-dpmm-ad."
        )
    try:
        return complete_settings(_migrate(config, version), "run")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def place_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put every setting where a config has it: as an id of its own, as one that is displayable, or in ``settings``.

    Args:
        config: ``inference.json`` or ``evaluate.json``.
        settings: all of a run.

    Returns:
        A changed copy.

    Example:
        >>> config = {"settings": {}, "displayable_configs": {"batch_size": 8}}
        >>> place_settings(config, {"batch_size": 2, "axes": ["axial"]})
        {'settings': {'axes': ['axial']}, 'displayable_configs': {'batch_size': 2}}
    """
    placed = {**config, **{name: settings[name] for name in _ZOO_IDS if name in config and name in settings}}
    shown = {name: settings.get(name, value) for name, value in config.get(_DISPLAYABLE, {}).items()}
    if shown:
        placed[_DISPLAYABLE] = shown
    if "settings" in config:
        elsewhere = {*shown, *(name for name in _ZOO_IDS if name in config)}
        placed["settings"] = {name: value for name, value in settings.items() if name not in elsewhere}
    return placed


def _migrate(config: Mapping[str, Any], version: int) -> dict[str, Any]:
    for number in range(version, FORMAT_VERSION):
        config = _MIGRATIONS[number](config) if number in _MIGRATIONS else config
    settings = {name: config[name] for name in _ZOO_IDS if name in config}
    for part in (_DISPLAYABLE, "settings"):
        if not isinstance(config.get(part, {}), dict):
            raise ValueError(f"`{part}` must be a dictionary, got {config[part]!r}.")
        settings |= config.get(part, {})
    brought: dict[str, Any] = {}
    for later in sorted(BROUGHT, reverse=True):  # what the next format brought is what this one did
        brought |= BROUGHT[later] if later > version else {}
    return {**brought, **{RENAMED.get(str(name), str(name)): value for name, value in settings.items()}}
