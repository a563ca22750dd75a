# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Is it learning, or collapsing? A small nearest-neighbour probe on slices that training also sees, without labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from transformers import Dinov2Model

from monai_dpmm_ad.pretraining.data import SlicePool
from monai_dpmm_ad.pretraining.model import encode_views
from monai_dpmm_ad.pretraining.objectives import make_step_views
from monai_dpmm_ad.pretraining.recipe import Recipe

__all__ = ["LEAST_RANK", "MOST_SIMILARITY", "check_collapse", "compute_rank", "probe_features"]

#: Features are collapsed below this effective rank, or above this mean cosine of patches of different slices.
LEAST_RANK, MOST_SIMILARITY = 3.0, 0.98

_SLICES = 32
_PATCHES = 4096


@torch.no_grad()
def probe_features(backbone: Dinov2Model, pool: SlicePool, recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Measure features on fixed slices and views, the same each time.

    Args:
        backbone: what to measure; its mode is kept.
        pool: the training slices; those drawn are the first of a fixed shuffle.
        recipe: the settings of the views.
        device: where the backbone is.

    Returns:
        ``probe_rank``, the effective rank of patch features; ``probe_similarity``, the mean cosine between patches of
        different slices; ``probe_places``, the share of patches whose nearest neighbour in the other view of the same
        slice is the patch at the same place (or one beside it); and, where lesions are implanted, ``probe_lesions``,
        the AUROC of a memory bank's score for the patches that one changed.
    """
    generator = Generator(device).manual_seed(1)
    step = make_step_views(pool.draw(_SLICES, generator), recipe, generator)
    tokens, _ = encode_views(backbone, step.views)
    first, second = F.normalize(tokens.float(), dim=-1).chunk(2)
    flat = second[step.tissue.chunk(2)[1]][:_PATCHES]
    result = {
        "probe_rank": compute_rank(flat),
        "probe_similarity": float(flat.mean(0).square().sum()),
        "probe_places": _find_places(first, second, step.paired, step.partner),
    }
    if recipe.lesions:
        usable = step.tissue.chunk(2)[0] & step.clean[:, None]
        scores = _score_against_others(first, second, step.tissue.chunk(2)[1])
        lesion, healthy = scores[usable & step.changed], scores[usable & step.unchanged]
        if len(lesion) and len(healthy):
            result["probe_lesions"] = _auroc(lesion, healthy)
    return result


def check_collapse(measured: Mapping[str, float]) -> str | None:
    """Say how the features have collapsed, or None when they have not.

    Args:
        measured: what `probe_features` gives.
    """
    if not measured["probe_rank"] >= LEAST_RANK:
        return f"the effective rank of the features is {measured['probe_rank']:.2f}, below {LEAST_RANK}"
    if not measured["probe_similarity"] <= MOST_SIMILARITY:
        return f"patches of different slices have a mean cosine of {measured['probe_similarity']:.3f}"
    return None


def compute_rank(features: Tensor) -> float:
    """Effective rank of ``(N, D)`` features: exp of the entropy of their covariance's normalised eigenvalues.

    Reference:
        Roy and Vetterli 2007.
    """
    if not torch.isfinite(features).all():
        return float("nan")
    eigenvalues = torch.linalg.eigvalsh(torch.cov(features.double().T)).clamp(min=0)
    shares = eigenvalues / eigenvalues.sum().clamp(min=1e-12)
    return float(torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum()))


def _find_places(first: Tensor, second: Tensor, paired: Tensor, partner: Tensor) -> float:
    side = round(first.shape[1] ** 0.5)
    nearest = (first @ second.transpose(1, 2)).argmax(2)
    apart = torch.maximum((nearest // side - partner // side).abs(), (nearest % side - partner % side).abs())
    return float((apart[paired] <= 1).float().mean())


def _score_against_others(first: Tensor, second: Tensor, tissue: Tensor) -> Tensor:
    """1 − cosine to the nearest tissue patch of the other slices' second views: (B, n)."""
    bank, owners = second[tissue], tissue.nonzero()[:, 0]
    return torch.stack([1 - (one @ bank[owners != index].T).amax(1) for index, one in enumerate(first)])


def _auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    ranked = negative.sort().values
    below = torch.searchsorted(ranked, positive, right=False) + torch.searchsorted(ranked, positive, right=True)
    return float(below.double().mean() / (2 * len(ranked)))
