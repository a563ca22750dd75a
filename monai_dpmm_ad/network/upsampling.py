# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From the coarse grid of patch scores to pixels, with or without the image as a guide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option

__all__ = ["REFINEMENTS", "UPSAMPLING_MODES", "refine_scores", "upsample_guided", "upsample_scores"]

UPSAMPLING_MODES = ("bilinear", "nearest")
REFINEMENTS = ("guided", *UPSAMPLING_MODES)

# Chosen on a cohort of phantoms of which no figure is published: python benchmarks/refinement.py --choose
_RADIUS = 1  # patches on either side that a line is fitted to
_RIDGE = 1e-4  # variance of the guide, whose foreground lies in (0, 1], below which the line is flattened


def refine_scores(
    grid: Tensor,
    valid: Tensor,
    guide: Tensor,
    mode: str,
    patch_size: tuple[float, float],
    start: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Bring patch scores to the pixels of an image.

    Args:
        grid: ``(B, h, w)`` scores, non-negative; those of invalid patches may be anything.
        valid: ``(B, h, w)`` Boolean.
        guide: ``(B, 1, H, W)``, the image, background exactly 0; its shape is that of the map.
        mode: one of :data:`REFINEMENTS`. ``bilinear`` is the published choice, ``guided`` is
            :func:`upsample_guided`, ``nearest`` shows the patches as they are.
        patch_size: rows and columns of a patch in pixels of the map; need not be whole.
        start: pixels of the map, rows and columns, by which the grid begins above and left of the map.

    Returns:
        ``(B, 1, H, W)``, non-negative.

    Raises:
        ValueError: unknown ``mode``, or what :func:`~monai_dpmm_ad.network.upsampling.upsample_scores` refuses.
    """
    if mode not in REFINEMENTS:
        raise unknown_option("upsampling", mode, REFINEMENTS)
    if mode == "guided":
        return upsample_guided(grid, valid, guide, patch_size, start)
    size = int(guide.shape[-2]), int(guide.shape[-1])
    return upsample_scores(grid, valid, size, mode, patch_size, start)


def upsample_guided(
    grid: Tensor,
    valid: Tensor,
    guide: Tensor,
    patch_size: tuple[float, float],
    start: tuple[float, float] = (0.0, 0.0),
    radius: int = _RADIUS,
    ridge: float = _RIDGE,
) -> Tensor:
    """Upsample bilinearly and add the image's detail, with the slope that scores have on the image nearby.

    Around every patch the scores s of the valid patches are regressed on the mean intensities g of their foreground,
    with slope a = cov(g, s) / (var(g) + ridge). With u the interpolation of
    :func:`~monai_dpmm_ad.network.upsampling.upsample_scores` and I the image, the map is

        m = u(s) + u(a) · (I − u(g)),    kept between u(lowest) and u(highest valid score of the window).

    A lesion that is brighter than its surroundings gets its own outline, and so does one that is darker; where scores
    do not follow the intensity the slope is 0 and the map is the bilinear one. The bounds keep a steep slope from
    making scores that no patch nearby has. A constant grid stays exactly constant.

    Args:
        grid: ``(B, h, w)`` scores, non-negative; those of invalid patches may be anything, NaN too.
        valid: ``(B, h, w)`` Boolean.
        guide: ``(B, 1, H, W)``, the image, background exactly 0.
        patch_size: rows and columns of a patch in pixels of the map.
        start: pixels of the map by which the grid begins above and left of the map.
        radius: patches on either side that belong to a window.
        ridge: added to the variance of the patches' intensities, in squared units of the guide.

    Returns:
        ``(B, 1, H, W)`` in the grid's dtype, between the lowest and the highest valid score; 0 for an image without a
        valid patch.

    Raises:
        ValueError: a guide of another shape, or what :func:`~monai_dpmm_ad.network.upsampling.upsample_scores` refuses.

    Reference:
        He, Sun and Tang, "Guided image filtering", PAMI 2013, equations 5 and 6, on the patch grid (He and Sun 2015,
        "Fast guided filter"). Ours: a patch's score is the mean over its pixels, so the line is fitted to patch means;
        the scores keep their own detail instead of being replaced by the fitted line.
    """
    if guide.ndim != 4 or guide.shape[1] != 1 or guide.shape[0] != grid.shape[0]:
        raise ValueError(f"`guide` must have shape (B, 1, H, W) with the grid's B, got {tuple(guide.shape)}.")
    size = int(guide.shape[-2]), int(guide.shape[-1])
    valid = valid.to(torch.bool)
    weight = valid.to(grid)
    least = torch.where(valid, grid, torch.inf).amin((1, 2), keepdim=True)
    least = torch.where(least.isinf(), 0, least)
    scores = torch.where(valid, grid - least, 0)
    intensity = _pool_patches(guide[:, 0].to(grid), grid.shape[1:], patch_size, start)
    slope = _fit_slopes(intensity, scores, weight, radius, ridge)

    bounds = -_window_maximum(-scores, valid, radius), _window_maximum(scores, valid, radius)
    grids = torch.stack([scores, slope, intensity, *bounds])
    score, steepness, mean, lowest, highest = upsample_scores(grids, valid, size, "bilinear", patch_size, start)
    refined = score + steepness * (guide - mean)
    return torch.minimum(torch.maximum(refined, lowest), highest) + least[:, None]


def _fit_slopes(intensity: Tensor, scores: Tensor, weight: Tensor, radius: int, ridge: float) -> Tensor:
    """Slope of the regression of scores on intensities around each patch, mean over the windows: all ``(B, h, w)``."""
    width = 2 * radius + 1

    def mean(x: Tensor) -> Tensor:  # of the valid patches in a window; 0 where there is none
        total = F.avg_pool2d((weight * x)[:, None], width, stride=1, padding=radius)[:, 0]
        return total / share.clamp_min(1e-6)

    share = F.avg_pool2d(weight[:, None], width, stride=1, padding=radius)[:, 0]
    mean_intensity = mean(intensity)
    covariance = mean(intensity * scores) - mean_intensity * mean(scores)
    variance = (mean(intensity * intensity) - mean_intensity.square()).clamp_min(0)
    return mean(covariance / (variance + ridge))


def _window_maximum(scores: Tensor, valid: Tensor, radius: int) -> Tensor:
    """Highest score among the valid patches of each patch's window, ``(B, h, w)``."""
    known = torch.where(valid, scores, -torch.inf)
    return F.max_pool2d(known[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]


def _pool_patches(
    images: Tensor, grid: tuple[int, ...], patch_size: tuple[float, float], start: tuple[float, float]
) -> Tensor:
    """Mean of the foreground of each patch ``(B, h, w)`` of images ``(B, H, W)``; 0 where it has none."""
    rows, columns = (
        _overlaps(int(grid[axis]), int(images.shape[1 + axis]), patch_size[axis], start[axis], images)
        for axis in (0, 1)
    )
    area = rows @ (images > 0).to(images) @ columns.T
    return rows @ images @ columns.T / area.clamp_min(1e-6)


def _overlaps(patches: int, pixels: int, length: float, start: float, like: Tensor) -> Tensor:
    """Share of each pixel that each patch covers along one axis, ``(patches, pixels)`` in [0, 1]."""
    pixel = torch.arange(pixels, device=like.device, dtype=torch.float64) + start
    patch = (torch.arange(patches, device=like.device, dtype=torch.float64) * length)[:, None]
    shared = torch.minimum(pixel + 1, patch + length) - torch.maximum(pixel, patch)
    return shared.clamp_min(0).to(like.dtype)


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
