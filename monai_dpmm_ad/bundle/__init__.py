# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The bundle on disk, the only kind of model: make, fill, run, update, export. Importing this does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_dpmm_ad.bundle.formats import FORMAT_VERSION, INFERENCE, read_settings
from monai_dpmm_ad.bundle.settings import SETTINGS, complete_settings, names_of, pick_settings
from monai_dpmm_ad.utils.lazy import hand_on

if TYPE_CHECKING:
    from monai_dpmm_ad.bundle.folder import MODEL, create_bundle, is_fitted, read_state, save_model, write_settings
    from monai_dpmm_ad.bundle.pack import pack_bundle, push_bundle
    from monai_dpmm_ad.bundle.provenance import describe_fit
    from monai_dpmm_ad.bundle.unpack import unpack_bundle
    from monai_dpmm_ad.bundle.workflow import AnomalyWorkflow, load_workflow

__all__ = [
    "FORMAT_VERSION",
    "INFERENCE",
    "MODEL",
    "SETTINGS",
    "AnomalyWorkflow",
    "complete_settings",
    "create_bundle",
    "describe_fit",
    "is_fitted",
    "load_workflow",
    "names_of",
    "pack_bundle",
    "pick_settings",
    "push_bundle",
    "read_settings",
    "read_state",
    "save_model",
    "unpack_bundle",
    "write_settings",
]

_FOLDER = ("MODEL", "create_bundle", "is_fitted", "read_state", "save_model", "write_settings")
_WORKFLOW = ("AnomalyWorkflow", "load_workflow")

__getattr__, _ = hand_on(
    __name__,
    {
        **dict.fromkeys(_FOLDER, "monai_dpmm_ad.bundle.folder"),
        "describe_fit": "monai_dpmm_ad.bundle.provenance",
        "pack_bundle": "monai_dpmm_ad.bundle.pack",
        "push_bundle": "monai_dpmm_ad.bundle.pack",
        "unpack_bundle": "monai_dpmm_ad.bundle.unpack",
        **dict.fromkeys(_WORKFLOW, "monai_dpmm_ad.bundle.workflow"),
    },
)
