# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Synthetic lesions put into views during pre-training: what the features must not overlook.

This is synthetic knowledge of what an anomaly looks like (specks, ribbons, masses with rim, cavity, oedema and mass
effect, pasted texture), not a label of any image; the model card of weights trained with it says so. The generator
shares no code with `synthetic_lesions`, by which methods are compared.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["implant_lesions", "measure_change"]

_MOST = 3  # lesions per view
_SMALL, _LARGE = (1.2, 14.0), (8.0, 45.0)  # radius in pixels of the slice
_LARGE_SHARE = 0.3  # of the first lesions; the others are small
_LARGEST = 0.35  # radius relative to the view: healthy tissue stays in sight
_FLOOR = 1e-3


def implant_lesions(images: Tensor, scale: Tensor, chosen: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Put one to three lesions into each chosen view.

    A lesion is a soft, warped ellipse, round to ribbon-like. In it the intensity is shifted, pulled towards one value,
    replaced by tissue of another view, or layered into rim and core. A large one may have oedema about it, and push the
    tissue around it aside.

    Args:
        images: ``(B, 1, s, s)`` in [0, 1], background exactly 0.
        scale: ``(B,)`` slice pixels per view pixel; radii are drawn in slice pixels.
        chosen: ``(B,)`` boolean, which views get lesions.
        generator: source of randomness.

    Returns:
        The views with lesions, and the same without, only pushed aside, both ``(B, 1, s, s)``: they differ in the
        lesions alone. Where not chosen both equal ``images``.
    """
    inside = images > 0
    count, device = len(images), generator.device
    number = torch.randint(1, _MOST + 1, (count,), generator=generator, device=device)
    out = around = images
    for index in range(_MOST):
        wanted = (chosen & (number > index)).view(-1, 1, 1, 1)
        radius = _draw_radius(index == 0, scale, inside.shape[-1], generator)
        level, offset = _draw_shape(inside, radius, generator)
        if index == 0:
            around = torch.where(inside & wanted, _push(images, offset, radius, generator), images)
            out = around
        soft = _soften(level, radius, generator)
        changed = _draw_content(out, soft, level, generator)
        out = torch.where(inside & wanted, (out + soft * (changed - out)).clamp(_FLOOR, 1), out)
    return out, around


def measure_change(before: Tensor, after: Tensor, patch_size: int) -> Tensor:
    """Mean absolute change of intensity per patch, ``(B, h·w)``."""
    return F.avg_pool2d((after - before).abs(), patch_size).flatten(1)


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    drawn = torch.rand((count, 1, 1, 1), generator=generator, device=generator.device)
    return drawn * (high - low) + low


def _draw_radius(may_be_large: bool, scale: Tensor, size: int, generator: Generator) -> Tensor:
    """Radii in pixels of the view, ``(B, 1, 1, 1)``, log-uniform."""
    count = len(scale)
    drawn, kind = _uniform(count, 0, 1, generator), _uniform(count, 0, 1, generator)
    small, large = (math.log(low) + drawn * math.log(high / low) for low, high in (_SMALL, _LARGE))
    radius = torch.where((kind < _LARGE_SHARE) & may_be_large, large, small).exp() / scale.view(-1, 1, 1, 1)
    return radius.clamp(max=_LARGEST * size)


def _draw_shape(inside: Tensor, radius: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A warped ellipse per view, centred in the foreground.

    Returns:
        Its level function ``(B, 1, s, s)``, 1 on the contour and less within, and the offset of every pixel from its
        centre ``(B, 2, s, s)``, rows first.
    """
    count, size = len(inside), inside.shape[-1]
    # The foreground pixel with the largest random number: a uniform draw among them.
    drawn = torch.rand((count, size * size), generator=generator, device=generator.device)
    centre = (drawn * inside.flatten(1)).argmax(1).view(-1, 1, 1, 1)
    axis = torch.arange(size, device=inside.device)
    rows = (axis.view(1, 1, size, 1) - centre // size).float().expand(-1, -1, -1, size)
    columns = (axis.view(1, 1, 1, size) - centre % size).float().expand(-1, -1, size, -1)
    # Large lesions are rounder than small ones.
    stretch = 1.4 * (6.0 / radius).clamp(max=1).sqrt()
    aspect = torch.exp(stretch * _uniform(count, 0, 1, generator) ** 2)
    angle = _uniform(count, 0, math.pi, generator)
    along = (torch.cos(angle) * rows + torch.sin(angle) * columns) / aspect
    across = (torch.cos(angle) * columns - torch.sin(angle) * rows) * aspect
    knots = torch.randn((count, 1, 8, 8), generator=generator, device=generator.device)
    knots = knots * _uniform(count, 0, 0.35, generator)
    warp = F.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    return torch.sqrt(along**2 + across**2) / radius * torch.exp(warp), torch.cat([rows, columns], 1)


def _soften(level: Tensor, radius: Tensor, generator: Generator) -> Tensor:
    """How much of a lesion every pixel is, ``(B, 1, s, s)``: sharp, soft or diffuse, a share with oedema about it."""
    count = len(level)
    edge = 1.0 / radius + 0.35 * _uniform(count, 0, 1, generator)
    edge = torch.where(_uniform(count, 0, 1, generator) < 0.15, 1.2, edge).clamp(max=1.5)
    core = ((1 - level) / edge + 0.5).clamp(0, 1)
    halo = 0.5 * ((1.6 - level) / 0.5 + 0.5).clamp(0, 1)
    return torch.where((_uniform(count, 0, 1, generator) < 0.3) & (radius > 6), torch.maximum(core, halo), core)


def _push(images: Tensor, offset: Tensor, radius: Tensor, generator: Generator) -> Tensor:
    """Push the tissue around a lesion aside, in a share of the views with a large one."""
    count, size = len(images), images.shape[-1]
    amount = _uniform(count, 0.1, 0.35, generator)
    amount = torch.where((_uniform(count, 0, 1, generator) < 0.5) & (radius > 6), amount, 0.0)
    # What lies at distance r is taken from r (1 - a exp(-(r / 2R)^2)), nearer to the centre.
    distance = offset.square().sum(1, keepdim=True) / (4 * radius**2)
    moved = -offset * amount * torch.exp(-distance)
    axis = torch.arange(size, dtype=torch.float32, device=images.device)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")) + moved
    grid = ((2 * places + 1) / size - 1).permute(0, 2, 3, 1).flip(-1)
    pushed = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(amount > 0, pushed.clamp(min=_FLOOR), images)


def _draw_content(images: Tensor, soft: Tensor, level: Tensor, generator: Generator) -> Tensor:
    """What a lesion's inside looks like, ``(B, 1, s, s)``: one of four kinds per view."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return _uniform(count, low, high, generator)

    weight = soft.sum((2, 3), keepdim=True).clamp(min=1e-3)
    local = (images * soft).sum((2, 3), keepdim=True) / weight
    amount = draw(0.06, 0.3) * torch.where((draw(0, 1) < 0.5) & (local > 0.2), -1.0, 1.0)
    grain = torch.randn(images.shape, generator=generator, device=generator.device)
    texture = 1 + 0.15 * draw(0, 1) * grain
    shifted = images + amount * texture
    flat = (local + amount) * texture + 0.3 * draw(0, 1) * (images - local)
    # A rim of one intensity about a core of another: enhancing tumour, cavity, abscess.
    core = local + draw(0.05, 0.3) * torch.where(draw(0, 1) < 0.6, -1.0, 1.0)
    layered = torch.where(level > draw(0.5, 0.85), local + amount, core.clamp(min=0.03)) * texture
    # Tissue of the next view, from another place, made as bright as the lesion is to be half of the time.
    size = images.shape[-1]
    shift = torch.randint(size // 6, size // 2, (2,), generator=generator, device=generator.device).tolist()
    donor = images.roll(1, 0).roll(shift, (2, 3))
    donor = torch.where(donor > 0, donor, local)
    matched = local - (donor * soft).sum((2, 3), keepdim=True) / weight + 0.5 * amount
    foreign = donor + torch.where(draw(0, 1) < 0.5, matched, 0.0)
    kind = draw(0, 1)
    return torch.where(kind < 0.4, shifted, torch.where(kind < 0.65, flat, torch.where(kind < 0.82, layered, foreign)))
