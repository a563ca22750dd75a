# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From an anomaly map to one score per image."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option

__all__ = ["POOLING_METHODS", "pool_image_score"]

POOLING_METHODS = ("max", "mean", "top1pct")


def pool_image_score(score_map: Tensor, valid: Tensor | None = None, method: str = "top1pct") -> Tensor:
    """Reduce each map to one score over its valid positions.

    Args:
        score_map: (B, *spatial), patch grid, slice or volume.
        valid: boolean, same shape: positions that count; all of them if None.
        method: ``"max"``, ``"mean"`` or ``"top1pct"``, the mean of the ``ceil(n / 100)`` highest of n scores.

    Returns:
        (B,) scores in the map's dtype; 0 where an image has no valid position (what is not there never scores).

    Raises:
        ValueError: unknown ``method``, or shapes that differ.

    Reference:
        Top 1 %: Damm et al. 2025 (AnomalyDINO), section 3.

    Example:
        >>> grid = torch.tensor([[[0.1, 0.2], [0.3, 9.0]]])
        >>> pool_image_score(grid, grid < 1, method="max")
        tensor([0.3000])
    """
    if method not in POOLING_METHODS:
        raise unknown_option("method", method, POOLING_METHODS)
    if score_map.ndim < 2:
        raise ValueError(
            f"`score_map` must have shape (B, *spatial), got {tuple(score_map.shape)}. Add a batch dimension."
        )
    flat = score_map.flatten(1)
    if valid is None:
        keep = torch.ones_like(flat, dtype=torch.bool)
    elif valid.shape != score_map.shape:
        raise ValueError(
            f"`valid` must have the map's shape {tuple(score_map.shape)}, got {tuple(valid.shape)}. "
            "Pass one Boolean per position."
        )
    else:
        keep = valid.flatten(1).to(torch.bool)
    count = keep.sum(1)
    if method == "mean":
        return torch.where(keep, flat, 0).sum(1) / count.clamp(min=1)
    # As many as the largest image needs; smaller ones use a prefix of the sorted scores.
    wanted = torch.ones_like(count) if method == "max" else torch.div(count + 99, 100, rounding_mode="floor")
    largest = int(wanted.max()) if len(wanted) else 0
    top = torch.where(keep, flat, -torch.inf).topk(min(max(largest, 1), flat.shape[1]), dim=1).values
    used = torch.arange(top.shape[1], device=top.device) < torch.minimum(wanted, count)[:, None]
    return torch.where(used, top, 0).sum(1) / torch.minimum(wanted, count).clamp(min=1)
