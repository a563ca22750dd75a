# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Gaussian components with diagonal or spherical covariance under a Normal-Gamma prior.

In centred coordinates, with λ one precision per dimension (diagonal) or one for all (spherical),

    λ_k ~ Gamma(a_0, b_0)      μ_k | λ_k ~ Normal(0, 1/(κ_0 λ_k))      y | k ~ Normal(μ_k, 1/λ_k)

The scale of the prior comes from the data: b_0 = a_0 · fraction · var(y). Each datum counts as known to within a
variance ε = floor · var(y), that is, E[y²] gains ε: components on duplicates keep a width, and the ELBO stays exact.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import Coefficients, DataScale, Family
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.sticks import compute_gamma_kl

__all__ = ["FactorisedGaussian", "NormalGamma"]


class NormalGamma(NamedTuple):
    """Normal-Gamma factors; G = D precisions per component (diagonal) or G = 1 (spherical).

    Args:
        mean: (K, D), centred coordinates.
        kappa: (K,), strength of the mean in pseudo-counts.
        shape: (K,).
        rate: (K, G).
    """

    mean: Tensor
    kappa: Tensor
    shape: Tensor
    rate: Tensor


class FactorisedGaussian(Family):
    """Diagonal or spherical Gaussian components.

    Args:
        embed_dim: D.
        hyper: κ_0, a_0, the prior variance's fraction and ε.
        tied: one precision for all dimensions (spherical) instead of one for each (diagonal).
        turned: along axes that all components share and that are estimated (rotated).
    """

    def __init__(self, embed_dim: int, hyper: Hyperparameters, tied: bool = False, turned: bool = False) -> None:
        super().__init__(embed_dim, hyper)
        self.tied = tied
        self.turned = turned

    @property
    def num_features(self) -> int:
        """2D for [y², y], D + 1 for [‖y‖², y]."""
        return self.num_groups + self.embed_dim

    @property
    def num_groups(self) -> int:
        """G, precisions per component."""
        return 1 if self.tied else self.embed_dim

    @property
    def group_size(self) -> int:
        """Dimensions that share a precision, D/G."""
        return self.embed_dim // self.num_groups

    def group(self, values: Tensor) -> Tensor:
        """Sum the last dimension over dimensions that share a precision: (…, D) to (…, G)."""
        return values.sum(-1, keepdim=True) if self.tied else values

    def prior_rate(self, scale: DataScale) -> Tensor:
        """Get b_0 = a_0 · fraction · (mean over the group of) var(y), (G,)."""
        return self.hyper.precision_shape * self.hyper.variance_fraction * self.group(scale.variance) / self.group_size

    def assemble(self, scale: DataScale, mean: Tensor, precision: Tensor, log_normaliser: Tensor) -> Coefficients:
        """Write ½(log_normaliser − D log 2π − Σ λ_d (y_d − m_d)²) + log |det axes| as coefficients of the features."""
        scaled = precision * mean
        constant = log_normaliser - self.embed_dim * math.log(2.0 * math.pi) - (scaled * mean).sum(1)
        return Coefficients(torch.cat([-0.5 * precision, scaled], dim=1).T, 0.5 * constant + scale.log_volume)

    def write_features(self, x: Tensor, scale: DataScale, out: Tensor) -> None:
        """Write [y², y] or [‖y‖², y]."""
        squares, centred = out[:, : self.num_groups], out[:, self.num_groups :]
        scale.place(x, out=centred)
        if self.tied:
            torch.sum(centred.square(), dim=1, keepdim=True, out=squares)
        else:
            torch.mul(centred, centred, out=squares)

    def build_posterior(self, scale: DataScale, counts: Tensor, sums: Tensor) -> NormalGamma:
        """Add statistics to the prior: κ = κ_0 + N, a = a_0 + N·(D/G)/2, b = b_0 + ½(Σ r y² + N ε − κ m²)."""
        squares, first = sums[:, : self.num_groups], sums[:, self.num_groups :]
        kappa = self.hyper.mean_strength + counts
        mean = first / kappa[:, None]
        variance = self.group(scale.variance)
        noise = self.hyper.variance_floor * counts[:, None] * variance
        scatter = squares - self.group(first * mean) + noise
        # Rounding alone could make the scatter negative: it holds N ε at least.
        rate = self.prior_rate(scale) + 0.5 * torch.maximum(scatter, noise)
        return NormalGamma(mean, kappa, self.hyper.precision_shape + 0.5 * self.group_size * counts, rate)

    def compute_expected_coefficients(self, scale: DataScale, params: NormalGamma) -> Coefficients:
        """Compute E[log N(y | μ_k, λ_k)] with the datum's own variance ε."""
        precision = params.shape[:, None] / params.rate
        log_precision = self.group_size * (self.num_groups * torch.digamma(params.shape) - params.rate.log().sum(1))
        noise = self.hyper.variance_floor * precision @ self.group(scale.variance)
        slack = log_precision - self.embed_dim / params.kappa - noise
        return self.assemble(scale, params.mean, precision, slack)

    def compute_predictive_coefficients(self, scale: DataScale, params: NormalGamma) -> Coefficients:
        """Compute log N(y | m_k, s_k) with s_k the variance scale of the Student-t predictive."""
        precision = self.compute_precisions(params)
        return self.assemble(scale, params.mean, precision, self.group_size * precision.log().sum(1))

    def compute_kl(self, scale: DataScale, params: NormalGamma) -> Tensor:
        """Compute the Normal-Gamma divergence, summed over dimensions."""
        precision = params.shape[:, None] / params.rate
        prior_shape = params.shape.new_full((), self.hyper.precision_shape)
        gamma = compute_gamma_kl(params.shape[:, None], params.rate, prior_shape, self.prior_rate(scale))
        ratio = self.hyper.mean_strength / params.kappa
        spread = self.hyper.mean_strength * (precision * self.group(params.mean.square())).sum(1)
        return gamma.sum(1) + 0.5 * (self.embed_dim * (ratio - 1.0 - ratio.log()) + spread)

    def get_means(self, scale: DataScale, params: NormalGamma) -> Tensor:
        """Get m_k in the data's own coordinates."""
        return scale.restore(params.mean)

    def get_precisions(self, scale: DataScale, params: NormalGamma) -> Tensor:
        """Get the precisions of `compute_precisions`, (K, G); with axes A the matrices Aᵀ diag(λ) A, (K, D, D)."""
        precision = self.compute_precisions(params)
        if scale.axes is None:
            return precision
        return scale.axes.T @ (precision.expand(-1, self.embed_dim)[:, :, None] * scale.axes)

    def compute_precisions(self, params: NormalGamma) -> Tensor:
        """Compute a κ / (b (κ + 1)), the precision of the Student-t predictive along each axis, (K, G)."""
        return (params.shape * params.kappa / (params.kappa + 1.0))[:, None] / params.rate

    def compute_mode_log_density(self, scale: DataScale, params: NormalGamma) -> Tensor:
        """Compute ½ Σ_d log(λ_d / 2π) + log |det axes|."""
        log_precision = self.group_size * self.compute_precisions(params).log().sum(1)
        return 0.5 * (log_precision - self.embed_dim * math.log(2.0 * math.pi)) + scale.log_volume
