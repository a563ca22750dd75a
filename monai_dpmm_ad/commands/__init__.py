# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The ways in: what the command line does, as functions. Importing this does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_dpmm_ad.utils.lazy import hand_on

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.run import Outcome, demo, evaluate, fit, infer

__all__ = ["Outcome", "demo", "evaluate", "fit", "infer"]

__getattr__, __dir__ = hand_on(__name__, dict.fromkeys(__all__, "monai_dpmm_ad.commands.run"))
