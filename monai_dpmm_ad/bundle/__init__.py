# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The bundle on disk, the only kind of model: make, fill, run, update, export."""

from __future__ import annotations

from monai_dpmm_ad.bundle.folder import (
    INFERENCE,
    MODEL,
    SETTINGS,
    create_bundle,
    is_fitted,
    read_settings,
    read_state,
    save_model,
)
from monai_dpmm_ad.bundle.workflow import load_network, load_workflow

__all__ = [
    "INFERENCE",
    "MODEL",
    "SETTINGS",
    "create_bundle",
    "is_fitted",
    "load_network",
    "load_workflow",
    "read_settings",
    "read_state",
    "save_model",
]
