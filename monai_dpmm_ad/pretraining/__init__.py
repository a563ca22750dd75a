# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Self-supervised pre-training of small vision transformers on medical slices; how ``compact`` was made."""

from monai_dpmm_ad.pretraining.checkpoints import average_backbones
from monai_dpmm_ad.pretraining.recipe import Recipe
from monai_dpmm_ad.pretraining.trainer import pretrain

__all__ = ["Recipe", "average_backbones", "pretrain"]
