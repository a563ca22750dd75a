# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Kernels of the one-class SVM and the scaling of what goes into them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.ops.distances import squared_distances

__all__ = ["GAMMAS", "KERNELS", "Gamma", "check_gamma", "compute_kernel", "resolve_gamma", "standardize"]

KERNELS = ("rbf", "linear")
GAMMAS = ("scale", "auto")
Gamma = str | float

_EPS = 1e-8


def standardize(latents: Tensor, kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scale each latent dimension to variance 1; for the rbf kernel, centre it as well.

    A linear one-class SVM separates the points from the origin. Centred points surround it, and their decision
    function would be zero everywhere: for the linear kernel the mean stays **(ours)**.

    Args:
        latents: (n, d).
        kernel: ``rbf`` or ``linear``.

    Returns:
        The latents (n, d), and the shift (d,) and scale (d,) that made them: ``(latents − shift) / scale``.
    """
    scale = (latents.var(0, correction=0) + _EPS).sqrt()
    shift = latents.mean(0) if kernel == "rbf" else torch.zeros_like(scale)
    return (latents - shift) / scale, shift, scale


def resolve_gamma(gamma: Gamma, latents: Tensor) -> float:
    """Turn γ into a number, as scikit-learn does.

    Args:
        gamma: ``scale``, 1/(d · variance of all values); ``auto``, 1/d; or a positive number, also as text.
        latents: (n, d).

    Raises:
        ValueError: a name that is neither, or a number that is not positive and finite.
    """
    check_gamma(gamma)
    if gamma == "auto":
        return 1.0 / latents.shape[1]
    if gamma == "scale":
        return 1.0 / (latents.shape[1] * max(float(latents.detach().var(correction=0)), _EPS))
    return float(gamma)


def check_gamma(gamma: Gamma) -> None:
    """Check γ, see :func:`resolve_gamma`."""
    if gamma in GAMMAS:
        return
    try:
        value = float(gamma)
    except ValueError:
        raise unknown_option("gamma", gamma, (*GAMMAS, "a positive number")) from None
    if not 0 < value < math.inf:
        raise ValueError(f"`gamma` must be positive and finite, got {gamma}. Try 'scale'.")


def compute_kernel(first: Tensor, second: Tensor, kernel: str, gamma: float) -> Tensor:
    """Compute k(x, y) = exp(−γ‖x − y‖²), or ⟨x, y⟩ for the linear kernel.

    Args:
        first: (n, d).
        second: (m, d).
        kernel: ``rbf`` or ``linear``.
        gamma: γ, unused for the linear kernel.

    Returns:
        (n, m).

    Raises:
        ValueError: an unknown kernel.
    """
    if kernel not in KERNELS:
        raise unknown_option("kernel", kernel, KERNELS)
    if kernel == "linear":
        return first @ second.T
    return torch.exp(-gamma * squared_distances(first, second))
