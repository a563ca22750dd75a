# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Between pixels and the patch grid: padding, pooling of masks, upsampling of scores, normalisation.

Images are padded at the bottom and the right, so patch (i, j) always covers the pixels
``[i·P, (i+1)·P) × [j·P, (j+1)·P)`` and its centre lies at ``((i + ½)·P, (j + ½)·P)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option

__all__ = ["UPSAMPLING_MODES", "normalize_embeddings", "pad_to_multiple", "pool_foreground", "upsample_scores"]

UPSAMPLING_MODES = ("bilinear", "nearest")


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


def upsample_scores(
    grid: Tensor,
    valid: Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    patch_size: float | tuple[float, float] | None = None,
    start: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Upsample patch scores to pixels so that invalid patches do not bleed into their neighbours.

    With u the interpolation from patch centres to pixel centres, constant beyond the outermost centres, the map is

        m = u(valid · score) / u(valid)        where u(valid) > 0, the nearest valid patch's score elsewhere.

    A constant grid gives that constant exactly. Where all patches are valid, and without padding, this is
    ``F.interpolate(..., align_corners=False)``.

    Args:
        grid: ``(B, h, w)`` scores, or ``(G, B, h, w)``, several of the same images, which costs less than each by
            itself; those of invalid patches may be anything, NaN too.
        valid: ``(B, h, w)`` Boolean.
        size: (H, W) of the map, pixels; what the padded grid covers beyond is cropped.
        mode: ``"bilinear"`` or ``"nearest"``.
        patch_size: size of a patch in pixels *of the map*, or (rows, columns); need not be whole, so that a map may
            have another resolution than the image that was embedded. None: the grid covers the map without padding.
        start: pixels of the map, rows and columns, by which the grid begins above and left of the map.

    Returns:
        ``(B, 1, H, W)``, or ``(G, B, 1, H, W)``, in the grid's dtype; 0 for an image without a valid patch.

    Raises:
        ValueError: unknown ``mode``, shapes that differ, or a grid that cannot have this patch size.

    Example:
        >>> grid = torch.tensor([[[1.0, 3.0]]])
        >>> upsample_scores(grid, torch.ones(1, 1, 2, dtype=torch.bool), (1, 4))
        tensor([[[[1.0000, 1.5000, 2.5000, 3.0000]]]])
    """
    if mode not in UPSAMPLING_MODES:
        raise unknown_option("mode", mode, UPSAMPLING_MODES)
    if grid.ndim not in (3, 4) or valid.ndim != 3 or grid.shape[-3:] != valid.shape:
        raise ValueError(
            f"`grid` and `valid` must both have shape (B, h, w), got {tuple(grid.shape)} and {tuple(valid.shape)}."
        )
    valid = valid.to(torch.bool)
    taps = [_taps(int(valid.shape[1 + axis]), size[axis], patch_size, start[axis], axis, grid) for axis in (0, 1)]
    source = _find_nearest(valid)
    for axis, (lower, upper, fraction) in enumerate(taps):
        source = source.index_select(1 + axis, torch.where(fraction < 0.5, lower, upper))
    scores = torch.where(valid, grid, 0)
    nearest = scores.flatten(-2).gather(-1, source.flatten(1).expand(*grid.shape[:-2], -1)).unflatten(-1, size)
    if mode == "nearest":
        return nearest.unsqueeze(-3)
    # Differences from one valid score, not the scores, are interpolated: a constant grid stays exact.
    offset = torch.where(valid, grid, torch.inf).amin((-2, -1), keepdim=True)
    offset = torch.where(offset.isinf(), 0, offset)
    rows, columns = (_matrix(int(valid.shape[1 + axis]), *taps[axis]) for axis in (0, 1))
    weight = rows @ valid.to(grid) @ columns.T
    value = rows @ torch.where(valid, grid - offset, 0) @ columns.T
    supported = weight > 0
    return torch.where(supported, offset + value / torch.where(supported, weight, 1), nearest).unsqueeze(-3)


def _taps(
    patches: int, pixels: int, patch_size: float | tuple[float, float] | None, start: float, axis: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The two patches whose centres enclose each pixel's centre along one axis, and the share of the second.

    Returns:
        lower and upper patch index, each ``(pixels,)``, and the weight of the upper one, ``(pixels,)`` in [0, 1).
    """
    length = patch_size[axis] if isinstance(patch_size, tuple) else patch_size
    if length is None:
        length = pixels / max(patches, 1)
    # A pixel's slack on either side, since a map's size is rounded after a fractional resizing.
    if patches < 1 or pixels < 1 or not (patches - 1) * length - 1 < pixels + start < patches * length + 1:
        raise ValueError(
            f"`size` must be what the grid covers, {patches} patches of {length:g} pixels less the padding, "
            f"got {pixels} along axis {axis}. Give `patch_size` in pixels of the map."
        )
    centre = (torch.arange(pixels, device=like.device, dtype=torch.float64) + 0.5 + start) / length - 0.5
    centre = centre.clamp(0, patches - 1)
    lower = centre.floor().long()
    return lower, (lower + 1).clamp(max=patches - 1), (centre - lower).to(like.dtype)


def _matrix(patches: int, lower: Tensor, upper: Tensor, fraction: Tensor) -> Tensor:
    """Interpolation along one axis as a matrix ``(pixels, patches)``: products are faster than look-ups."""
    number = torch.arange(patches, device=lower.device)
    return (lower[:, None] == number) * (1 - fraction[:, None]) + (upper[:, None] == number) * fraction[:, None]


def _find_nearest(valid: Tensor) -> Tensor:
    """Number of the valid patch that is nearest to each patch (Euclidean), ``(B, h, w)`` in rows of the grid.

    Separable: the nearest valid patch of each row first, then the nearest of those over the rows, so that memory is
    B·h·w·(h + w) and not B·(h·w)². Anything where an image has no valid patch.
    """
    _, h, w = valid.shape
    far = float(4 * (h * h + w * w))  # beyond any distance within the grid
    x = torch.arange(w, device=valid.device, dtype=torch.float32)
    y = torch.arange(h, device=valid.device, dtype=torch.float32)
    across = (x[:, None] - x).square() + torch.where(valid, 0, far)[:, :, None, :]  # (B, h, w, candidate column)
    row_distance, column = across.min(-1)
    down = (y[:, None] - y).square()[None, :, :, None] + row_distance[:, None]  # (B, h, candidate row, w)
    row = down.argmin(2)
    return row * w + column.gather(1, row)


def normalize_embeddings(embeddings: Tensor, eps: float = 1e-12) -> Tensor:
    """Divide each embedding by its Euclidean norm; a zero vector stays zero.

    Args:
        embeddings: ``(..., D)``.
        eps: least norm that is divided by.

    Returns:
        ``(..., D)``, ``‖y‖ = 1``.
    """
    return F.normalize(embeddings, dim=-1, eps=eps)
