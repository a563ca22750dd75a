# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Random views of slices, with the place of every patch kept, so that patches of two views can be paired.

Geometry first (`sample_views`), then lesions (`implants`), then the scanner (`augment_intensity`). All randomness comes
from one generator, so that a resumed training repeats itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["Views", "augment_intensity", "blur_images", "match_patches", "sample_view_pair"]

_MAX_ANGLE = 0.19  # radians, 11 degrees
_SIGMA_BLUR = 1.2  # pixels, largest blur
_FLOOR = 1e-3  # smallest foreground intensity, as the package's preprocessing has it


@dataclass(frozen=True)
class Views:
    """A batch of views and where their patches lie in the slices that they were cut from.

    Args:
        images: ``(B, 1, s, s)`` in [0, 1], background exactly 0.
        places: ``(B, h, w, 2)`` row and column of each patch's centre in its slice, in pixels.
        positions: ``(B, h, w, 2)`` the same relative to the slice's height and width, as if the slice were mirrored
            where the view is, and shifted a little at random: what position embeddings are looked up by.
        rotation: ``(B, 2, 2)`` matrix from the view's pixels to the slice's, scale included.
        centre: ``(B, 2)`` place of the view's centre in the slice.
    """

    images: Tensor
    places: Tensor
    positions: Tensor
    rotation: Tensor
    centre: Tensor


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _grid(count: int, step: float, device: torch.device) -> Tensor:
    """Row and column of ``count`` by ``count`` cells of ``step`` pixels, from the middle of the square: (n, n, 2)."""
    axis = (torch.arange(count, dtype=torch.float32, device=device) + 0.5) * step - 0.5 * count * step
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)


def sample_view_pair(
    images: Tensor,
    others: Tensor,
    frames: Tensor,
    size: int,
    patch_size: int,
    zoom: tuple[float, float],
    position_shift: float,
    generator: Generator,
) -> tuple[Views, Views]:
    """Cut two overlapping square views from each slice, mirrored together at random.

    Args:
        images: ``(B, 1, S, S)`` in [0, 1], background exactly 0, each slice at the upper left.
        others: ``(B, 1, S, S)`` what the second views are cut from: the same slices, perhaps of another contrast.
        frames: ``(B, 2)`` height and width of each slice.
        size: side of the views in pixels, a multiple of ``patch_size``.
        patch_size: side of a patch.
        zoom: least and greatest number of slice pixels per view pixel, drawn log-uniformly.
        position_shift: greatest shift of a view's positions, relative to the slice, each its own. Large enough,
            it keeps two patches from being paired by their positions alone.
        generator: source of randomness, on the images' device.

    Returns:
        Two `Views`.
    """
    count = len(images)
    mirrored = torch.rand(count, generator=generator, device=generator.device) < 0.5
    zooms = _uniform((2, count), math.log(zoom[0]), math.log(zoom[1]), generator).exp()
    half = (0.5 * size * zooms.min(0).values)[:, None].expand(-1, 2)
    # Views lie inside the slice where they fit; larger ones stay about its middle.
    room = (0.5 * frames - half).clamp(min=0)
    first = 0.5 * frames + room * _uniform((count, 2), -1, 1, generator)
    second = first + half * _uniform((count, 2), -0.6, 0.6, generator)
    second = torch.minimum(torch.maximum(second, 0.5 * frames - room), 0.5 * frames + room)
    one, two = (
        _cut(source, frames, mirrored, centre, scale, size, patch_size, position_shift, generator)
        for source, centre, scale in ((images, first, zooms[0]), (others, second, zooms[1]))
    )
    return one, two


def _cut(
    images: Tensor,
    frames: Tensor,
    mirrored: Tensor,
    centre: Tensor,
    scale: Tensor,
    size: int,
    patch_size: int,
    position_shift: float,
    generator: Generator,
) -> Views:
    count, side = len(images), images.shape[-1]
    angle = _uniform((count,), -_MAX_ANGLE, _MAX_ANGLE, generator)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rotation = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    # A mirrored view runs through the slice's columns backwards.
    rotation[:, 1] = torch.where(mirrored[:, None], -rotation[:, 1], rotation[:, 1])
    where = torch.einsum("bij,hwj->bhwi", rotation, _grid(size, 1.0, images.device)) + centre[:, None, None]
    sampling = (2 * where / side - 1).flip(-1)
    pixels = F.grid_sample(images, sampling, mode="bilinear", padding_mode="zeros", align_corners=False)
    inside = F.grid_sample((images > 0).float(), sampling, mode="bilinear", padding_mode="zeros", align_corners=False)
    pixels = torch.where(inside > 0.5, pixels.clamp(_FLOOR, 1), 0.0)
    cells = _grid(size // patch_size, patch_size, images.device)
    places = torch.einsum("bij,hwj->bhwi", rotation, cells) + centre[:, None, None]
    relative = places / frames[:, None, None] - 0.5
    relative = torch.where(
        (mirrored[:, None] & torch.tensor([False, True], device=images.device))[:, None, None], -relative, relative
    )
    shift = _uniform((count, 1, 1, 2), -position_shift, position_shift, generator)
    stretch = _uniform((count, 1, 1, 2), 0.95, 1.05, generator)
    return Views(pixels, places, relative * stretch + 0.5 + shift, rotation, centre)


def match_patches(one: Views, two: Views, patch_size: int) -> tuple[Tensor, Tensor]:
    """Find for each patch of one view the patch of the other that lies nearest to it in the slice.

    Args:
        one: the first views.
        two: the second views of the same slices.
        patch_size: side of a patch.

    Returns:
        ``(B, h·w)`` index into the second view's flattened grid, and ``(B, h·w)`` whether it exists.
    """
    height, width = two.places.shape[1:3]
    offset = one.places - two.centre[:, None, None]
    cells = torch.einsum("bij,bhwj->bhwi", torch.linalg.inv(two.rotation), offset) / patch_size
    nearest = torch.floor(cells + 0.5 * torch.tensor([height, width], device=cells.device)).long()
    rows, columns = nearest[..., 0], nearest[..., 1]
    valid = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return index.flatten(1), valid.flatten(1)


def augment_intensity(images: Tensor, generator: Generator) -> Tensor:
    """Change contrast mildly (a lesion is an intensity), shade, blur and add noise; the background stays 0.

    Args:
        images: ``(B, 1, s, s)`` in [0, 1], background exactly 0, tissue median near 1/3.
        generator: source of randomness.

    Returns:
        ``(B, 1, s, s)``, in [0, 1].
    """
    count, size = len(images), images.shape[-1]
    inside = images > 0

    def draw(low: float, high: float) -> Tensor:
        return _uniform((count, 1, 1, 1), low, high, generator)

    out = (3 * images.clamp(min=_FLOOR)) ** draw(math.log(0.85), math.log(1.18)).exp() / 3  # the median stays
    coarse = torch.randn((count, 1, 3, 3), generator=generator, device=generator.device) * draw(0.0, 0.08)
    shade = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    out = out * torch.exp(shade) * draw(0.92, 1.08)
    out = blur_images(out, inside, draw(0.0, _SIGMA_BLUR) * (draw(0, 1) < 0.5))
    out = out + torch.randn(out.shape, generator=generator, device=generator.device) * draw(0.0, 0.03) * (
        draw(0, 1) < 0.7
    )
    return torch.where(inside, out.clamp(_FLOOR, 1), 0.0)


def blur_images(images: Tensor, inside: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own sigma (pixels, 0 for none), normalised by the foreground."""
    count, reach = len(images), 3
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.view(count, 1).clamp(min=0.05)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)

    def smooth(x: Tensor) -> Tensor:
        x = F.conv2d(x.transpose(0, 1), kernel[:, None, :, None], padding=(reach, 0), groups=count)
        return F.conv2d(x, kernel[:, None, None, :], padding=(0, reach), groups=count).transpose(0, 1)

    return smooth(images * inside) / smooth(inside.float()).clamp(min=1e-3)
