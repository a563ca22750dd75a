# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Rotated copies of slices, so that a fit knows anatomy that lies askew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Rotate
from torch import Tensor

__all__ = ["check_rotations", "rotate_slices"]


def check_rotations(rotations: Sequence[float]) -> list[float]:
    """Check the angles of a fit.

    Args:
        rotations: degrees, each once.

    Raises:
        ValueError: no angle, one twice, or one that is no finite number.
    """
    angles = [float(angle) for angle in rotations]
    turns = {angle % 360 for angle in angles if math.isfinite(angle)}
    if not angles or len(turns) != len(angles):
        raise ValueError(f"`rotations` must be different angles in degrees, 0 for the slice itself, got {rotations}.")
    return angles


def rotate_slices(slices: Sequence[Mapping[str, Any]], angle: float) -> list[dict[str, Any]]:
    """Rotate slices and their labels about their centres, on a canvas that holds them whole.

    Args:
        slices: items with ``image (C, H, W)``, background exactly 0, and perhaps ``label (1, H, W)``.
        angle: degrees, counter-clockwise as the slice is shown; 0 copies nothing.

    Returns:
        The items. A pixel of the image is foreground where the nearest one of the slice was, so the head does not
        grow; one of the label is marked where anything marked has a part in it.
    """
    if angle % 360 == 0:
        return [dict(item) for item in slices]
    smooth = Rotate(math.radians(angle), keep_size=False, padding_mode="zeros")
    nearest = Rotate(math.radians(angle), keep_size=False, mode="nearest", padding_mode="zeros")
    rotated = []
    for item in slices:
        image = torch.as_tensor(item["image"]).as_subclass(Tensor)
        inside = nearest((image > 0).float()).as_subclass(Tensor) > 0
        turned = smooth(image).as_subclass(Tensor).clamp_min(torch.finfo(torch.float32).tiny)
        parts: dict[str, Any] = {"image": torch.where(inside, turned, 0)}
        if "label" in item:
            marked = (torch.as_tensor(item["label"]).as_subclass(Tensor) > 0).float()
            parts["label"] = (smooth(marked).as_subclass(Tensor) > 0).float()
        rotated.append({**item, **parts})
    return rotated
