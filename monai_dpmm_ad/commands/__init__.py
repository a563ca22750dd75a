# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The ways in: what the command line does, as functions. Importing this does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_dpmm_ad.utils.lazy import hand_on

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.model import AnomalyModel, AnomalyResult
    from monai_dpmm_ad.commands.run import Outcome, demo, evaluate, fit, infer

__all__ = ["AnomalyModel", "AnomalyResult", "Outcome", "demo", "evaluate", "fit", "infer"]

_MODEL = dict.fromkeys(("AnomalyModel", "AnomalyResult"), "monai_dpmm_ad.commands.model")
_RUN = dict.fromkeys(("Outcome", "demo", "evaluate", "fit", "infer"), "monai_dpmm_ad.commands.run")

__getattr__, __dir__ = hand_on(__name__, {**_MODEL, **_RUN})
