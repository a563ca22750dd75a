# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Between pixels and the patch grid: padding, pooling of masks, upsampling of scores, normalisation.

Images are padded at the bottom and the right, so patch (i, j) always covers the pixels
``[i·P, (i+1)·P) × [j·P, (j+1)·P)`` and its centre lies at ``((i + ½)·P, (j + ½)·P)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["locate_patches", "normalize_embeddings", "pad_to_multiple", "pool_foreground"]


def pad_to_multiple(images: Tensor, patch_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad images with zeros, at the bottom and the right, to whole patches.

    Args:
        images: ``(..., H, W)``.
        patch_size: P, pixels.

    Returns:
        The images ``(..., h·P, w·P)``, the same tensor where nothing is missing, and the patch grid ``(h, w)``.

    Raises:
        ValueError: ``patch_size`` below 1, fewer than two dimensions, or an empty image.

    Example:
        >>> padded, grid = pad_to_multiple(torch.ones(1, 3, 30, 28), 14)
        >>> padded.shape, grid
        (torch.Size([1, 3, 42, 28]), (3, 2))
    """
    if patch_size < 1:
        raise ValueError(f"`patch_size` must be at least 1 pixel, got {patch_size}.")
    if images.ndim < 2 or images.shape[-1] < 1 or images.shape[-2] < 1:
        raise ValueError(f"`images` must have shape (..., H, W) with H, W ≥ 1, got {tuple(images.shape)}.")
    height, width = int(images.shape[-2]), int(images.shape[-1])
    h, w = -(-height // patch_size), -(-width // patch_size)
    bottom, right = h * patch_size - height, w * patch_size - width
    return (F.pad(images, (0, right, 0, bottom)) if bottom or right else images), (h, w)


def pool_foreground(mask: Tensor, patch_size: int) -> Tensor:
    """Compute each patch's share of foreground; the padding counts as background.

    Args:
        mask: ``(B, 1, H, W)``, Boolean, or each pixel's own share in [0, 1].
        patch_size: P, pixels.

    Returns:
        ``(B, h, w)`` in [0, 1], on the grid of :func:`pad_to_multiple`.

    Raises:
        ValueError: a mask of another shape.
    """
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"`mask` must have shape (B, 1, H, W), got {tuple(mask.shape)}.")
    share = mask if mask.is_floating_point() else mask.to(torch.float32)
    padded, _ = pad_to_multiple(share, patch_size)
    return F.avg_pool2d(padded, patch_size)[:, 0]


def normalize_embeddings(embeddings: Tensor, eps: float = 1e-12) -> Tensor:
    """Divide each embedding by its Euclidean norm; a zero vector stays zero.

    Args:
        embeddings: ``(..., D)``.
        eps: least norm that is divided by.

    Returns:
        ``(..., D)``, ``‖y‖ = 1``.
    """
    return F.normalize(embeddings, dim=-1, eps=eps)


def join_stages(patches: Tensor) -> Tensor:
    """Unit embeddings ``(..., S·D)`` of raw ones ``(..., S, D)``: each stage normalised, times 1/√S."""
    return (normalize_embeddings(patches.float()) / patches.shape[-2] ** 0.5).flatten(-2)


def locate_patches(
    resized: Tensor, grid: tuple[int, int], patch_size: int, positions: Tensor | None, shift: tuple[int, int] = (0, 0)
) -> Tensor:
    """Where patches lie in their scan, relative to its size.

    Args:
        resized: ``(B, C, H, W)``, the slices that the grid lies on.
        grid: h and w.
        patch_size: side of a patch in pixels.
        positions: ``(B,)``, of the slices along their axis, in [0, 1]; None for 0.5.
        shift: rows and columns by which the grid starts above and left of the slices.

    Returns:
        ``(B, h, w, 3)``: row, column and slice, in [0, 1].
    """
    batch, _, height, width = resized.shape
    if positions is None:
        positions = resized.new_full((batch,), 0.5)
    rows = ((torch.arange(grid[0], device=resized.device) + 0.5) * patch_size - shift[0]) / height
    columns = ((torch.arange(grid[1], device=resized.device) + 0.5) * patch_size - shift[1]) / width
    return torch.stack(
        [
            rows.clamp(0, 1)[None, :, None].expand(batch, *grid),
            columns.clamp(0, 1)[None, None, :].expand(batch, *grid),
            positions.to(resized)[:, None, None].expand(batch, *grid),
        ],
        dim=-1,
    )
