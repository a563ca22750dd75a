# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Synthetic lesions put into views during pre-training: what the features must not overlook.

This is synthetic knowledge of what an anomaly looks like (blobs, ribbons, pasted texture), not a label of any image;
the model card of weights trained with it says so. The generator shares no code with `synthetic_lesions`, by which
methods are compared.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["implant_lesions", "measure_change"]

_MOST = 3  # lesions per view
_RADIUS = (1.2, 15.0)  # pixels of the slice
_FLOOR = 1e-3


def implant_lesions(images: Tensor, scale: Tensor, chosen: Tensor, generator: Generator) -> Tensor:
    """Put one to three lesions into each chosen view.

    A lesion is a soft, warped ellipse, round to ribbon-like. In it the intensity is shifted, pulled towards one value,
    or replaced by tissue of another view.

    Args:
        images: ``(B, 1, s, s)`` in [0, 1], background exactly 0.
        scale: ``(B,)`` slice pixels per view pixel; radii are drawn in slice pixels.
        chosen: ``(B,)`` boolean, which views get lesions.
        generator: source of randomness.

    Returns:
        ``(B, 1, s, s)``; equal to ``images`` outside the lesions and where not chosen.
    """
    out, inside = images, images > 0
    number = torch.randint(1, _MOST + 1, (len(images),), generator=generator, device=generator.device)
    for index in range(_MOST):
        wanted = (chosen & (number > index)).view(-1, 1, 1, 1)
        soft = _draw_shape(inside, scale, generator)
        changed = _draw_content(out, soft, generator)
        out = torch.where(inside & wanted, (out + soft * (changed - out)).clamp(_FLOOR, 1), out)
    return out


def measure_change(before: Tensor, after: Tensor, patch_size: int) -> Tensor:
    """Mean absolute change of intensity per patch, ``(B, h·w)``."""
    return F.avg_pool2d((after - before).abs(), patch_size).flatten(1)


def _draw_shape(inside: Tensor, scale: Tensor, generator: Generator) -> Tensor:
    """Soft masks ``(B, 1, s, s)`` of one warped ellipse per view, centred in the foreground."""
    count, size = len(inside), inside.shape[-1]
    # The foreground pixel with the largest random number: a uniform draw among them.
    centre = (
        torch.rand((count, size * size), generator=generator, device=generator.device) * inside.flatten(1)
    ).argmax(1)
    rows = torch.arange(size, dtype=torch.float32, device=inside.device).view(1, size, 1) - (centre // size).view(
        -1, 1, 1
    )
    columns = torch.arange(size, dtype=torch.float32, device=inside.device).view(1, 1, size) - (centre % size).view(
        -1, 1, 1
    )
    low, high = (math.log(value) for value in _RADIUS)
    drawn = torch.rand((4, count), generator=generator, device=generator.device)
    radius = (torch.exp(low + (high - low) * drawn[0]) / scale).view(-1, 1, 1)
    aspect = torch.exp(1.4 * drawn[1] ** 2).view(-1, 1, 1)
    angle = (math.pi * drawn[2]).view(-1, 1, 1)
    along = (torch.cos(angle) * rows + torch.sin(angle) * columns) / aspect
    across = (torch.cos(angle) * columns - torch.sin(angle) * rows) * aspect
    knots = torch.randn((count, 1, 8, 8), generator=generator, device=generator.device) * (0.35 * drawn[3]).view(
        -1, 1, 1, 1
    )
    warp = F.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True).squeeze(1)
    level = torch.sqrt(along**2 + across**2) / radius * torch.exp(warp)
    edge = (1.0 / radius + 0.35 * torch.rand((count, 1, 1), generator=generator, device=generator.device)).clamp(
        max=1.5
    )
    return ((1 - level) / edge + 0.5).clamp(0, 1).unsqueeze(1)


def _draw_content(images: Tensor, soft: Tensor, generator: Generator) -> Tensor:
    """What a lesion's inside looks like, ``(B, 1, s, s)``: one of three kinds per view."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand((count, 1, 1, 1), generator=generator, device=generator.device) * (high - low) + low

    local = (images * soft).sum((2, 3), keepdim=True) / soft.sum((2, 3), keepdim=True).clamp(min=1e-3)
    amount = draw(0.06, 0.3) * torch.where((draw(0, 1) < 0.5) & (local > 0.2), -1.0, 1.0)
    texture = 1 + 0.15 * draw(0, 1) * torch.randn(images.shape, generator=generator, device=generator.device)
    shifted = images + amount * texture
    flat = (local + amount) * texture + 0.3 * draw(0, 1) * (images - local)
    # Tissue of the next view, from another place, made as bright as the lesion is to be half of the time.
    size = images.shape[-1]
    shift = torch.randint(size // 6, size // 2, (2,), generator=generator, device=generator.device).tolist()
    donor = images.roll(1, 0).roll(shift, (2, 3))
    donor = torch.where(donor > 0, donor, local)
    foreign = donor + torch.where(
        draw(0, 1) < 0.5,
        local
        - (donor * soft).sum((2, 3), keepdim=True) / soft.sum((2, 3), keepdim=True).clamp(min=1e-3)
        + 0.5 * amount,
        0.0,
    )
    kind = draw(0, 1)
    return torch.where(kind < 0.5, shifted, torch.where(kind < 0.8, flat, foreign))
