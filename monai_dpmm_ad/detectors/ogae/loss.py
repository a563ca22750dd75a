# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The loss that lets a one-class SVM shape the latent."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_dpmm_ad.detectors.ogae.kernels import Gamma, compute_kernel, resolve_gamma, standardize
from monai_dpmm_ad.detectors.ogae.ocsvm import differentiable_ocsvm
from monai_dpmm_ad.errors import unknown_option

__all__ = ["MODES", "compute_guided_loss"]

MODES = ("compactor", "expander", "both")


def compute_guided_loss(
    latents: Tensor, mode: str = "both", kernel: str = "rbf", gamma: Gamma = "scale", nu: float = 0.03
) -> Tensor:
    """Fit a one-class SVM to the first half of a batch and penalise what of the second half lies outside.

        mean relu(−f(z_loss)),  f(z) = Σ_i α_i k(z_i, z) − ρ,  (α, ρ) from z_sv

    The batch must be in random order. ``compactor`` moves z_loss into the boundary, ``expander`` moves the boundary
    around them: through α, ρ and the support vectors' own places; ``both`` does both.

    Args:
        latents: (n, d), n ≥ 4; each half is standardised by itself.
        mode: ``compactor``, ``expander`` or ``both``.
        kernel: ``rbf`` or ``linear``.
        gamma: ``scale``, ``auto`` or a number; no gradient flows through it.
        nu: ν in (0, 1].

    Returns:
        0-dim, float64, non-negative.

    Raises:
        ValueError: an unknown option, too few latents, or what :func:`~.ocsvm.solve_ocsvm` refuses.

    Reference:
        Pinon and Lartizien 2025, arXiv 2507.21164.
    """
    if mode not in MODES:
        raise unknown_option("mode", mode, MODES)
    if latents.ndim != 2 or len(latents) < 4:
        raise ValueError(f"`latents` must have shape (n, d) with n ≥ 4, got {tuple(latents.shape)}.")
    half = len(latents) // 2
    latents = latents.double()  # a kernel matrix rounded to float32 need not be positive semi-definite
    support, judged = standardize(latents[:half], kernel)[0], standardize(latents[half:], kernel)[0]
    if mode == "compactor":
        support = support.detach()
    elif mode == "expander":
        judged = judged.detach()
    value = resolve_gamma(gamma, support)
    alpha, rho = differentiable_ocsvm(compute_kernel(support, support, kernel, value), nu)
    decision = compute_kernel(judged, support, kernel, value) @ alpha - rho
    return torch.relu(-decision).mean()
