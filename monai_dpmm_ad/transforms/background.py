# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""NaN as background: outside the head it is what many programs write there, inside it is a hole in the data."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms.foreground import compute_foreground

__all__ = ["fill_background", "is_finite"]


def is_finite(values: Tensor) -> bool:
    """Whether all values ``(*shape)`` are finite and no more than float64 can add up: one pass, and no copy."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.numpy().sum(dtype=np.float64)))


def fill_background(image: MetaTensor, source: str) -> None:
    """Put the lowest value in the place of NaN outside the head, in place.

    Args:
        image: ``(1, *spatial)``.
        source: named in errors.

    Raises:
        ScanError: infinite voxels, NaN inside the head, or nothing else than NaN.
    """
    values = image.as_tensor()
    if is_finite(values):
        return
    infinite = int(torch.count_nonzero(torch.isinf(values)))
    if infinite:
        raise ScanError(source, f"has {infinite} infinite voxels of {values.numel()}; write it again without them")
    missing = torch.isnan(values)
    if missing.all():
        raise ScanError(source, "has nothing but NaN voxels")
    if not missing.any():
        return  # large numbers whose sum overflows
    values[missing] = values[~missing].min()
    if values.min() == values.max():
        return  # constant, which is said elsewhere
    head = compute_foreground(values)
    inside = int(torch.count_nonzero(head & missing))
    if inside:
        share, number = inside / int(torch.count_nonzero(head)), int(torch.count_nonzero(missing))
        raise ScanError(
            source,
            f"has {inside} NaN voxels inside the head, {share:.2%} of it ({number} NaN or infinite voxels of "
            f"{values.numel()}); fill them first: only outside the head NaN counts as background",
        )
