# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Von Mises–Fisher components: directions, whose likelihood is cosine similarity.

    p(y | μ, κ) = C_D(κ) exp(κ μᵀy)      C_D(κ) = κ^ν / ((2π)^(D/2) I_ν(κ)),  ν = D/2 − 1      ‖y‖ = ‖μ‖ = 1

μ_k is uniform on the sphere a priori and q(μ_k) = vMF(m_k, ξ_k). κ_k is a point, under a prior worth n_0 data of mean
resultant length R_0; the prior density is taken relative to its mode, so an empty component costs nothing.

Reference:
    Banerjee et al. 2005, Clustering on the unit hypersphere, for the likelihood; Taghia et al. 2014, Bayesian
    estimation of the von Mises–Fisher mixture model with variational inference, for q(μ). κ as a point is ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import Coefficients, DataScale, Family
from monai_dpmm_ad.mixture.families.bessel import compute_bessel_ratio, compute_log_bessel
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.validation import UNIT_TOLERANCE

__all__ = ["VonMisesFisher", "VonMisesFisherParams", "invert_resultant"]

NEWTON_STEPS = 3  # Sra's start is within a few percent, and Newton squares the error
LEAST_SPREAD = 1e-5  # of a direction: concentrations beyond D/1e-5 would drown in float32's rounding
ALTERNATIONS = 3  # of κ and ξ, which depend on each other where a component holds few data


class VonMisesFisherParams(NamedTuple):
    """Factors of von Mises–Fisher components.

    Args:
        direction: (K, D), m_k, unit vectors; zero where a component is empty.
        certainty: (K,), ξ_k, concentration of q(μ_k).
        concentration: (K,), κ_k.
    """

    direction: Tensor
    certainty: Tensor
    concentration: Tensor


class VonMisesFisher(Family):
    """Von Mises–Fisher components on unit vectors.

    Args:
        embed_dim: D, at least 2.
        hyper: n_0 as 2 a_0, 1 − R_0² as a fraction of the data's total variance, and each datum's own variance.

    Raises:
        ValueError: if there is one dimension.
    """

    unit = True

    def __init__(self, embed_dim: int, hyper: Hyperparameters) -> None:
        super().__init__(embed_dim, hyper)
        if embed_dim < 2:
            raise ValueError(f"`embed_dim` must be at least 2 for von Mises–Fisher components, got {embed_dim}.")
        self.order = embed_dim / 2.0 - 1.0
        self.prior_size = 2.0 * hyper.precision_shape

    @property
    def num_features(self) -> int:
        """D: the features are y itself."""
        return self.embed_dim

    def write_features(self, x: Tensor, scale: DataScale, out: Tensor) -> None:
        """Write the directions as they are: no shift, for a sphere has no other origin. NaN where they are not unit."""
        deviation = (x.square().sum(1, keepdim=True) - 1.0).abs()
        out.copy_(x).masked_fill_(deviation > UNIT_TOLERANCE, torch.nan)

    def build_posterior(self, scale: DataScale, counts: Tensor, sums: Tensor) -> VonMisesFisherParams:
        """Alternate ξ = κ (1 − ε) ‖Σ r y‖ and the κ that maximises the ELBO."""
        length = torch.linalg.vector_norm(sums, dim=1) * self._shrinkage(scale)
        resultant = self._prior_resultant(scale)
        total = counts + self.prior_size
        expected = torch.ones_like(counts)
        for _ in range(ALTERNATIONS):
            mean_resultant = (expected * length + self.prior_size * resultant) / total
            concentration = invert_resultant(self.embed_dim, mean_resultant)
            certainty = concentration * length
            expected = compute_bessel_ratio(self.order, certainty)
        return VonMisesFisherParams(torch.nn.functional.normalize(sums, dim=1), certainty, concentration)

    def compute_expected_coefficients(self, scale: DataScale, params: VonMisesFisherParams) -> Coefficients:
        """Compute log C_D(κ) + κ (1 − ε) A_D(ξ) mᵀy."""
        strength = params.concentration * compute_bessel_ratio(self.order, params.certainty) * self._shrinkage(scale)
        return Coefficients((strength[:, None] * params.direction).T, self._log_normaliser(params.concentration))

    def compute_predictive_coefficients(self, scale: DataScale, params: VonMisesFisherParams) -> Coefficients:
        """Compute the log density of the vMF whose mean resultant is the predictive's, A_D(κ) A_D(ξ)."""
        concentration = self._predictive_concentration(params)
        return Coefficients((concentration[:, None] * params.direction).T, self._log_normaliser(concentration))

    def compute_kl(self, scale: DataScale, params: VonMisesFisherParams) -> Tensor:
        """Compute KL(q(μ) ‖ uniform) and what κ loses against the prior's mode."""
        expected = compute_bessel_ratio(self.order, params.certainty)
        log_area = math.log(2.0) + 0.5 * self.embed_dim * math.log(math.pi) - math.lgamma(0.5 * self.embed_dim)
        direction = self._log_normaliser(params.certainty) + params.certainty * expected + log_area
        resultant = self._prior_resultant(scale)
        mode = invert_resultant(self.embed_dim, resultant)
        at_mode, here = (self._log_normaliser(kappa) + kappa * resultant for kappa in (mode, params.concentration))
        return direction + self.prior_size * (at_mode - here)

    def get_means(self, scale: DataScale, params: VonMisesFisherParams) -> Tensor:
        """Get the mean directions."""
        return params.direction

    def get_precisions(self, scale: DataScale, params: VonMisesFisherParams) -> Tensor:
        """Get the predictive concentrations, (K, 1)."""
        return self._predictive_concentration(params)[:, None]

    def compute_mode_log_density(self, scale: DataScale, params: VonMisesFisherParams) -> Tensor:
        """Compute log C_D(κ) + κ."""
        concentration = self._predictive_concentration(params)
        return self._log_normaliser(concentration) + concentration

    def _predictive_concentration(self, params: VonMisesFisherParams) -> Tensor:
        """The κ of mean resultant A_D(κ_k) A_D(ξ_k), (K,)."""
        resultant = [compute_bessel_ratio(self.order, kappa) for kappa in (params.concentration, params.certainty)]
        return invert_resultant(self.embed_dim, resultant[0] * resultant[1])

    def _log_normaliser(self, concentration: Tensor) -> Tensor:
        """log C_D(κ)."""
        kappa = concentration.clamp(min=1e-12)
        constant = 0.5 * self.embed_dim * math.log(2.0 * math.pi)
        return self.order * kappa.log() - constant - compute_log_bessel(self.order, kappa)

    def _shrinkage(self, scale: DataScale) -> Tensor:
        """1 − ε: a datum known to within some variance has a shorter expectation."""
        return 1.0 - 0.5 * (self.hyper.variance_floor * scale.variance.sum()).clamp(LEAST_SPREAD, 1.0)

    def _prior_resultant(self, scale: DataScale) -> Tensor:
        """R_0, below one by the floor at least."""
        spread = self.hyper.variance_fraction * scale.variance.sum()
        return (1.0 - spread).clamp(min=0.0).sqrt() * self._shrinkage(scale)


def invert_resultant(dim: int, resultant: Tensor) -> Tensor:
    """Find κ with A_D(κ) = R by Newton's method.

    Args:
        dim: D.
        resultant: R, in [0, 1).

    Returns:
        κ, of the shape of ``resultant``.

    Reference:
        Sra 2012, A short note on parameter approximation for von Mises–Fisher distributions, equation 4 for the start.
    """
    order = dim / 2.0 - 1.0
    kappa = resultant * (dim - resultant.square()) / (1.0 - resultant.square())
    for _ in range(NEWTON_STEPS):
        ratio = compute_bessel_ratio(order, kappa)
        slope = 1.0 - ratio.square() - (dim - 1.0) / kappa.clamp(min=1e-12) * ratio
        step = torch.minimum((ratio - resultant) / slope.clamp(min=1e-16), 0.5 * kappa)
        kappa = torch.where(kappa > 1e-6, kappa - torch.maximum(step, -0.5 * kappa), kappa)
    return kappa
