# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The objectives of pre-training, as pure functions of tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["compute_contrast", "compute_distillation", "compute_entropy", "compute_koleo", "compute_lesion_loss"]


def compute_contrast(one: Tensor, two: Tensor, excluded: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Dense InfoNCE: row n of one view against all rows of the other, and back.

    Args:
        one: ``(N, D)`` tokens of the first views, L2-normalised.
        two: ``(N, D)`` tokens of the second views at the same places, L2-normalised.
        excluded: ``(N, N)`` boolean, pairs that are no negatives (near neighbours in one slice); the diagonal is False.
        temperature: the softmax's temperature.

    Returns:
        The loss, and the share of rows whose own partner is the nearest.

    Reference:
        van den Oord, Li and Vinyals 2018, equation 4; on patches as Wang et al. 2021 (DenseCL).
    """
    logits = (one @ two.T / temperature).masked_fill(excluded, float("-inf"))
    target = torch.arange(len(one), device=one.device)
    loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    return loss, (logits.detach().argmax(1) == target).float().mean()


def compute_lesion_loss(
    queries: Tensor, changed: Tensor, support: Tensor, allowed: Tensor, scale: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Score patches by their similarity to clean patches of *other* slices, as a memory bank does, and classify.

    ``s_n = T logsumexp_m (cos(q_n, m) / T)`` over the support of other slices,
    ``p(changed) = sigmoid(scale (offset − s))``, binary cross-entropy with both classes weighing the same.

    Args:
        queries: ``(N, D)`` tokens, L2-normalised.
        changed: ``(N,)`` boolean, whether a lesion changed the patch.
        support: ``(M, D)`` clean tokens, L2-normalised.
        allowed: ``(N, M)`` boolean, whether a query may be compared: another slice of the same group.
        scale: positive scalar, learned.
        offset: scalar, learned.

    Returns:
        The loss (0 where one class is absent), and the balanced accuracy.
    """
    if not bool(changed.any()) or bool(changed.all()):
        return 0.0 * queries.sum(), queries.new_tensor(0.5)
    temperature = 0.05
    similarity = (queries @ support.T).masked_fill(~allowed, -1.0)
    nearest = temperature * torch.logsumexp(similarity / temperature, 1)
    logit = scale * (offset - nearest)
    loss = F.binary_cross_entropy_with_logits(logit, changed.float(), reduction="none")
    loss = 0.5 * (loss[changed].mean() + loss[~changed].mean())
    right = ((logit > 0) == changed).float()
    return loss, 0.5 * (right[changed].mean() + right[~changed].mean()).detach()


def compute_distillation(student: Tensor, teacher: Tensor, centre: Tensor, temperatures: tuple[float, float]) -> Tensor:
    """Cross-entropy of the student's prototypes to the teacher's, centred and sharpened: DINO on CLS, iBOT on patches.

    Args:
        student: ``(N, C)`` prototype scores.
        teacher: ``(N, C)`` prototype scores, no gradient.
        centre: ``(C,)`` running mean of the teacher's scores.
        temperatures: the student's and the teacher's.

    Returns:
        The mean loss.

    Reference:
        Caron et al. 2021, equation 1; Zhou et al. 2022 (iBOT), equation 2.
    """
    target = torch.softmax((teacher - centre) / temperatures[1], 1)
    return -(target * torch.log_softmax(student / temperatures[0], 1)).sum(1).mean()


def compute_entropy(teacher: Tensor, centre: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Entropy of the teacher's mean assignment and mean entropy of its assignments, in nats.

    The first falls to 0 when one prototype takes all; the second stays at ``log C`` when nothing is told apart.
    """
    p = torch.softmax((teacher - centre) / temperature, 1)
    mean = p.mean(0)
    return -(mean * mean.clamp(min=1e-12).log()).sum(), -(p * p.clamp(min=1e-12).log()).sum(1).mean()


def compute_koleo(tokens: Tensor) -> Tensor:
    """Mean negative log distance to the nearest neighbour of ``(N, D)`` L2-normalised tokens: spreads them.

    Reference:
        Sablayrolles et al. 2019, equation 3.
    """
    similarity = (tokens @ tokens.T).fill_diagonal_(-1.0)
    nearest = similarity.detach().argmax(1)
    return -torch.log((tokens - tokens[nearest]).norm(dim=1) + 1e-4).mean()
