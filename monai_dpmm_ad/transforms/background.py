# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""NaN as background: outside the head it is what many programs write there, inside it is a hole in the data."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms.foreground import compute_foreground

__all__ = ["fill_background"]


def fill_background(image: MetaTensor, source: str) -> None:
    """Put the lowest value in the place of NaN outside the head, in place.

    Args:
        image: ``(1, *spatial)``.
        source: named in errors.

    Raises:
        ScanError: infinite voxels, NaN inside the head, or nothing else than NaN.
    """
    values = image.as_tensor()
    if torch.isfinite(values.sum(dtype=torch.float64)):  # one pass; more only when it is needed
        return
    infinite = int(torch.isinf(values).sum())
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
    inside = int((compute_foreground(values) & missing).sum())
    if inside:
        share = inside / int(compute_foreground(values).sum())
        raise ScanError(
            source,
            f"has {inside} NaN voxels inside the head, {share:.2%} of it ({int(missing.sum())} NaN or infinite voxels "
            f"of {values.numel()}); fill them first: only outside the head NaN counts as background",
        )
