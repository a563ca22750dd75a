# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which configs of a bundle may run: those of this package, with other settings.

MONAI runs what a config says: a value that begins with ``$`` is Python. A bundle that someone sent is therefore a
program. The commands of this package run its configs only where they say what the package's own template says, but for
settings that are plain values; everything else takes the user's word that the bundle is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.errors import CheckpointError

__all__ = ["check_configs", "refuse_expressions"]

_MAX_BYTES = 4 * 2**20
_REMEDY = (
    "A config is code. If you trust whoever made the bundle, give --trust-bundle (to a server "
    "--conf trust_bundle true), or run it with python -m monai.bundle"
)


def check_configs(bundle_root: Path, template: Path, settings: Sequence[str]) -> None:
    """Compare a bundle's configs with the template's.

    A top-level value of the template that is plain (a number, a text, a list) may be another plain value in the bundle;
    all else must be the same. Extra files are not looked at, since nothing reads them.

    Args:
        bundle_root: folder of the bundle.
        template: folder of the package's own bundle.
        settings: ids that may have a plain value in the bundle where the template works one out.

    Raises:
        CheckpointError: naming the file and the id that differ.
    """
    for own in sorted((template / "configs").iterdir()):
        path = bundle_root / "configs" / own.name
        if not path.is_file():
            raise CheckpointError(f"{bundle_root}: is no bundle of this package, {path} is missing. Make one with fit.")
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: has more than {_MAX_BYTES} bytes. Copy the bundle again.")
        if own.suffix != ".json":
            if path.read_bytes() != own.read_bytes():
                raise CheckpointError(f"{path}: is not this package's own. {_REMEDY}.")
            continue
        _check_config(path, json.loads(own.read_text(encoding="utf-8")), settings)


def _check_config(path: Path, expected: dict[str, Any], settings: Sequence[str]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no dictionary")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no readable config ({error}). Copy the bundle again.") from error
    for name in sorted(expected.keys() | found.keys()):
        if name in expected and name in found:
            may_differ = name in settings or _is_plain(name, expected[name])
            if found[name] == expected[name] or (may_differ and _is_plain(name, found[name])):
                continue
            what = f"has another `{name}` than this package"
        elif path.name == "metadata.json" and name == "fitted" and _is_plain(name, found.get(name)):
            continue  # what a fit says of itself
        else:
            what = f"has `{name}`, which this package does not" if name in found else f"lacks `{name}`"
        raise CheckpointError(f"{path}: {what}. {_REMEDY}.")


def _is_plain(name: str, value: Any) -> bool:
    try:
        refuse_expressions(name, value)
    except (ValueError, RecursionError):
        return False
    return True


def refuse_expressions(name: str, value: Any) -> None:
    """Refuse what MONAI would run: expressions and references at any depth, and keys such as ``_target_``.

    Raises:
        ValueError: naming what would run.
    """
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise ValueError(f"`{name}` must not begin with {value[0]}, got '{value}'. Write ./{value} for a path.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not str(key).isidentifier() or str(key).startswith("_"):
                raise ValueError(f"`{name}` must have plain names as keys, got '{key}'.")
            refuse_expressions(name, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            refuse_expressions(name, item)
