# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Autoencoders of embeddings and of image patches; both take flat rows."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from monai_dpmm_ad.errors import unknown_option

__all__ = ["ARCHITECTURES", "Autoencoder", "make_autoencoder"]

ARCHITECTURES = ("mlp", "conv")

_SMALLEST_SIDE = 4


class Autoencoder(nn.Module):
    """An encoder and its decoder.

    Args:
        encoder: rows (n, D) to latents (n, d).
        decoder: latents (n, d) to rows (n, D).
        positive: latents go through softplus, as a linear one-class SVM needs them.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, positive: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder, self.positive = encoder, decoder, positive

    def encode(self, rows: Tensor) -> Tensor:
        """Latents (n, d) of rows (n, D)."""
        latents = self.encoder(rows)
        return F.softplus(latents) if self.positive else latents

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, d) and reconstructed rows (n, D)."""
        latents = self.encode(rows)
        return latents, self.decoder(latents)


def make_autoencoder(
    architecture: str, input_dim: int, latent_dim: int, width: int | None = None, positive: bool = False
) -> Autoencoder:
    """Make an autoencoder.

    ``mlp`` has one hidden layer on either side. ``conv`` reads a row as a square grey image and halves it with strided
    3×3 convolutions until its side is 4 at most, doubling the channels each time.

    Args:
        architecture: ``mlp`` or ``conv``.
        input_dim: D, for ``conv`` the square of the image's side.
        latent_dim: d.
        width: hidden units (default 256) or channels of the first convolution (default 32).
        positive: see :class:`Autoencoder`.

    Raises:
        ValueError: an unknown architecture, a size that is not positive, or rows that are no square images.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_option("architecture", architecture, ARCHITECTURES)
    if latent_dim < 1 or (width is not None and width < 1):
        raise ValueError(f"`latent_dim` and `width` must be positive, got {latent_dim} and {width}.")
    if architecture == "mlp":
        hidden = width or 256
        encoder = nn.Sequential(nn.Linear(input_dim, hidden), nn.GELU(), nn.Linear(hidden, latent_dim))
        decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.GELU(), nn.Linear(hidden, input_dim))
        return Autoencoder(encoder, decoder, positive)
    side = math.isqrt(input_dim)
    if side * side != input_dim or side < 2:
        raise ValueError(
            f"`input_dim` must be the square of an image's side for 'conv', got {input_dim}. "
            "Use the embedder 'pixels', or the architecture 'mlp'."
        )
    return Autoencoder(*_make_convolutions(side, latent_dim, width or 32), positive)


def _make_convolutions(side: int, latent_dim: int, width: int) -> tuple[nn.Module, nn.Module]:
    sides, channels = [side], [1]
    while len(sides) == 1 or sides[-1] > _SMALLEST_SIDE:
        sides.append(-(-sides[-1] // 2))
        channels.append(width * 2 ** (len(sides) - 2))
    down: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    up: list[nn.Module] = []
    for level in range(len(sides) - 1):
        down += [nn.Conv2d(channels[level], channels[level + 1], 3, stride=2, padding=1), nn.GELU()]
        odd = sides[level] % 2
        grow = nn.ConvTranspose2d(channels[level + 1], channels[level], 3, 2, padding=1, output_padding=1 - odd)
        up = [nn.GELU(), grow, *up]
    flat = channels[-1] * sides[-1] ** 2
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, latent_dim))
    shape = (channels[-1], sides[-1], sides[-1])
    decoder = nn.Sequential(nn.Linear(latent_dim, flat), nn.Unflatten(1, shape), *up, nn.Flatten())
    return encoder, decoder
