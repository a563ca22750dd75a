# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Random intensities of structures: like T1, T2 or FLAIR for a share of draws, free for the rest."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.pretraining.anatomy import STRUCTURES

__all__ = ["SEQUENCES", "draw_contrasts", "scale_to_median"]

#: The priors of `Structure.prior`, in their order.
SEQUENCES = ("T1", "T2", "FLAIR")

_SEQUENCE_SHARE = 0.65  # of the draws, alike for all sequences; the rest is free
_SPREAD = 0.1  # of the log intensity about a sequence's prior
_FREE = (0.08, 1.0)  # range of free intensities
_AIR_FLOOR = 0.02


def draw_contrasts(count: int, generator: Generator, sequence: str | None = None) -> Tensor:
    """Draw the mean intensity of every structure.

    Args:
        count: how many contrasts.
        generator: source of randomness.
        sequence: one of `SEQUENCES` for all; None draws them.

    Returns:
        ``(count, 1 + structures)``, the first, air, is 0.

    Raises:
        ValueError: on an unknown sequence.
    """
    device = generator.device
    if sequence is not None and sequence not in SEQUENCES:
        raise unknown_option("sequence", sequence, SEQUENCES)
    priors = torch.tensor([structure.prior for structure in STRUCTURES], device=device).T
    draws = torch.rand((2, count), generator=generator, device=device)
    kind = (draws[0] * len(SEQUENCES)).long().clamp(max=len(SEQUENCES) - 1)
    if sequence is not None:
        kind = torch.full_like(kind, SEQUENCES.index(sequence))
    shape = (count, len(STRUCTURES))
    known = priors[kind] * torch.exp(_SPREAD * torch.randn(shape, generator=generator, device=device))
    free = _FREE[0] + (_FREE[1] - _FREE[0]) * torch.rand(shape, generator=generator, device=device)
    is_free = (draws[1] > _SEQUENCE_SHARE) & (sequence is None)
    means = torch.where(is_free[:, None], free, known).clamp(min=_AIR_FLOOR)
    return torch.cat([means.new_zeros(count, 1), means], 1)


def scale_to_median(means: Tensor, counts: Tensor, target: float = 1 / 3) -> Tensor:
    """Scale contrasts so that the median voxel of the scan that they render has a set intensity.

    Args:
        means: ``(B, C)`` intensities of structures.
        counts: ``(B, C)`` voxels of each structure in the scan; 0 for those that are not rendered.
        target: what the median becomes.

    Returns:
        ``(B, C)``
    """
    order = means.argsort(1)
    shares = counts.gather(1, order).cumsum(1)
    middle = (shares >= 0.5 * shares[:, -1:]).int().argmax(1, keepdim=True)
    return means * (target / means.gather(1, order.gather(1, middle)))
