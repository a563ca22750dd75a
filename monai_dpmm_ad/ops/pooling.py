# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From an anomaly map to one score per image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option

__all__ = ["POOLING_METHODS", "pool_image_score"]

POOLING_METHODS = ("max", "mean", "top01pct", "top1pct")


def pool_image_score(score_map: Tensor, valid: Tensor | None = None, method: str = "top1pct") -> Tensor:
    """Reduce each map to one score over its valid positions.

    Args:
        score_map: (B, *spatial), patch grid, slice or volume.
        valid: boolean, same shape: positions that count; all of them if None.
        method: ``"max"``, ``"mean"``, or ``"top1pct"`` and ``"top01pct"``, the mean of the ``ceil(n / 100)`` and the
            ``ceil(n / 1000)`` highest of n scores.

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
    if valid is None:
        keep = torch.ones_like(score_map, dtype=torch.bool)
    elif valid.shape != score_map.shape:
        raise ValueError(
            f"`valid` must have the map's shape {tuple(score_map.shape)}, got {tuple(valid.shape)}. "
            "Pass one Boolean per position."
        )
    else:
        keep = valid.to(torch.bool)
    # One image after the other: of a scan only the foreground is looked at, a fraction of the field of view.
    pooled = [_mean_of_largest(_select(scores, kept), method) for scores, kept in zip(score_map, keep, strict=True)]
    return torch.stack(pooled) if pooled else score_map.new_zeros(0)


def _select(scores: Tensor, kept: Tensor) -> Tensor:
    """``scores[kept]``, for which torch makes an index of eight bytes for each of them on a CPU."""
    if scores.is_cuda or scores.requires_grad:
        return scores[kept]
    return torch.from_numpy(scores.as_subclass(Tensor).numpy()[kept.as_subclass(Tensor).numpy()])


def _largest(scores: Tensor, count: int) -> Tensor:
    """The largest scores, falling; reorders what it is given on a CPU, where ``topk`` takes 16 bytes for each score."""
    if scores.is_cuda or scores.requires_grad or scores.dtype == torch.bfloat16:
        return scores.topk(count).values
    array = scores.numpy()
    array.partition(len(array) - count)
    return torch.from_numpy(np.sort(array[len(array) - count :])[::-1].copy())


def _mean_of_largest(scores: Tensor, method: str) -> Tensor:
    """Mean of as many of the largest scores ``(n,)`` as the method takes, 0-dim; 0 where there is none."""
    counts = {"max": min(1, len(scores)), "mean": len(scores), "top1pct": -(-len(scores) // 100)}
    count = counts.get(method, -(-len(scores) // 1000))
    if not count:
        return scores.new_zeros(())
    return (scores if count == len(scores) else _largest(scores, count)).mean()
