# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The optimiser of a pre-training and how its learning rate goes."""

from __future__ import annotations

import math

import torch

from monai_dpmm_ad.pretraining.model import PretrainModel
from monai_dpmm_ad.pretraining.recipe import Recipe

__all__ = ["compute_schedule", "make_optimizer"]

_WARM_UP = 100  # steps

_DECAY = 0.3  # of the steps, at the end: until then a training can be made longer or shorter

_CALIBRATION_RATE = 10.0  # the lesion score's scale and offset learn faster than the network


def compute_schedule(step: int, steps: int) -> float:
    """Learning rate relative to its highest: a linear warm-up, a plateau, and a root decay over the last 30 %.

    Args:
        step: steps done.
        steps: steps in all.

    Reference:
        Hägele et al. 2024, section 3 (constant learning rate with a cooldown of 1 − sqrt).
    """
    warm_up = min(_WARM_UP, max(1, steps // 10))
    decay = (step - (1 - _DECAY) * steps) / (_DECAY * steps)
    return min(1.0, (step + 1) / warm_up) * (1 - math.sqrt(max(0.0, decay)))


def make_optimizer(student: PretrainModel, recipe: Recipe) -> torch.optim.AdamW:
    calibration = [student.log_scale, student.offset]
    network = [p for p in student.parameters() if all(p is not q for q in calibration)]
    groups = [
        {"params": [p for p in network if p.ndim > 1], "weight_decay": recipe.weight_decay, "rate": 1.0},
        {"params": [p for p in network if p.ndim <= 1], "weight_decay": 0.0, "rate": 1.0},
        {"params": calibration, "weight_decay": 0.0, "rate": _CALIBRATION_RATE},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
