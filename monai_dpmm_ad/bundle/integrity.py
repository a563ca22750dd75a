# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether a bundle's model is the one that was fitted: its tensors against the digest in ``metadata.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_dpmm_ad.utils.integrity import digest_tensors

__all__ = ["check_digest", "describe_digest"]

#: Beside what the detector says of itself, under ``fitted``.
_KEY = "tensors_sha256"


def describe_digest(state: Mapping[str, Any]) -> dict[str, str]:
    """The entry of ``fitted`` in ``configs/metadata.json`` by which a damaged model is known.

    Args:
        state: the network's state dict, on the CPU.
    """
    return {_KEY: digest_tensors(state)}


def check_digest(metadata: Path, state: Mapping[str, Any]) -> None:
    """Compare a model with the digest that its fit wrote; one of a fit that wrote none is taken as it is.

    Args:
        metadata: the bundle's ``configs/metadata.json``.
        state: what was read.

    Raises:
        ValueError: when they differ, or the file cannot be read.
    """
    if metadata.is_file():
        expected = (json.loads(metadata.read_text(encoding="utf-8")).get("fitted") or {}).get(_KEY)
        if expected is not None and digest_tensors(state) != expected:
            raise ValueError("its numbers are not those that were fitted")
