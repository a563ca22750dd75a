# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the steps of a config do, so that it can be compared: settings do not tell of a step that was changed alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import Transform

from monai_dpmm_ad.transforms.drop import DropVoxelsd
from monai_dpmm_ad.transforms.place import TakeThumbnaild
from monai_dpmm_ad.transforms.truth import CheckTruthd

__all__ = ["describe_steps"]

#: They look, or let go, and change nothing that is written: inference and evaluation, or two sides of a fit, differ by
#: them.
_LOOK_ON = (CheckTruthd, DropVoxelsd, TakeThumbnaild)
#: How many slices at once changes no voxel.
_NOT_ASKED = ("batch_size",)


def describe_steps(steps: Any) -> Any:
    """Describe transforms and inferers by their classes and arguments, as plain JSON.

    Args:
        steps: a transform, an inferer, or lists of them in whatever nesting.

    Returns:
        The same for the same steps in each process; networks, folders and random states are not part of it.

    Example:
        >>> from monai.transforms import Flip
        >>> describe_steps([Flip(1)])
        [{'step': 'Flip', 'spatial_axis': 1}]
    """
    if isinstance(steps, (list, tuple)):
        return [describe_steps(step) for step in steps if not isinstance(step, _LOOK_ON)]
    if isinstance(steps, Mapping):
        return {str(key): describe_steps(value) for key, value in steps.items()}
    if isinstance(steps, (Transform, Inferer)):
        told = {name: value for name, value in vars(steps).items() if not name.startswith("_")}
        kept = {name: describe_steps(told[name]) for name in told if name not in _NOT_ASKED}
        return {"step": type(steps).__qualname__, **{name: value for name, value in kept.items() if value is not None}}
    if steps is None or isinstance(steps, (bool, int, float, str)):
        return steps
    if isinstance(steps, (np.generic, np.ndarray)):
        return steps.tolist()
    if isinstance(steps, (torch.dtype, torch.device, np.dtype)):
        return str(steps)
    if isinstance(steps, os.PathLike):
        return None
    return getattr(steps, "__qualname__", type(steps).__qualname__)
