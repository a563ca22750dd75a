# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Gaussian components with full covariance under a Normal-Wishart prior, with sparse responsibilities.

In centred coordinates

    Λ_k ~ Wishart(ν_0, Ψ_0⁻¹)      μ_k | Λ_k ~ Normal(0, (κ_0 Λ_k)⁻¹)      y | k ~ Normal(μ_k, Λ_k⁻¹)

An exact expectation step costs N·K·D². Here each datum is compared exactly with the L components that a diagonal
surrogate ranks first, one product, and all others have responsibility zero: N·L·D². The ELBO is still a bound, that of
a q(z) with support on those L.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import DataScale, Family
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.ops.graphs import is_exporting

__all__ = ["FullGaussian", "NormalWishart", "QuadraticCoefficients"]


class NormalWishart(NamedTuple):
    """Normal-Wishart factors.

    Args:
        mean: (K, D), centred coordinates.
        kappa: (K,), strength of the mean in pseudo-counts.
        dof: (K,), ν.
        scatter: (K, D, D), Ψ, the inverse of the Wishart's scale.
    """

    mean: Tensor
    kappa: Tensor
    dof: Tensor
    scatter: Tensor


class QuadraticCoefficients(NamedTuple):
    """The log density c_k − ½ (y − m_k)ᵀ P_k (y − m_k) with P_k = R_k R_kᵀ, and its diagonal surrogate.

    Args:
        mean: (K, D).
        root: (K, D, D), R.
        offset: (K,), c.
        weight: (2D, K), coefficients of [y², y] in the surrogate's log density.
        slack: (K,), its offset, less ``offset``.
    """

    mean: Tensor
    root: Tensor
    offset: Tensor
    weight: Tensor
    slack: Tensor

    def to(self, dtype: torch.dtype) -> QuadraticCoefficients:
        """Convert all to ``dtype``."""
        return QuadraticCoefficients(*(t.to(dtype) for t in self))


class FullGaussian(Family):
    """Full-covariance Gaussian components.

    Args:
        embed_dim: D.
        hyper: κ_0, ν_0 − D + 1 as 2 a_0, the prior variance's fraction, ε and L.
    """

    def __init__(self, embed_dim: int, hyper: Hyperparameters) -> None:
        super().__init__(embed_dim, hyper)
        self.prior_dof = embed_dim - 1.0 + 2.0 * hyper.precision_shape

    @property
    def num_features(self) -> int:
        """D + D² for [y, y yᵀ]; only y is ever written."""
        return self.embed_dim + self.embed_dim**2

    @property
    def num_written(self) -> int:
        """2D for [y², y], what the surrogate needs."""
        return 2 * self.embed_dim

    def write_features(self, x: Tensor, scale: DataScale, out: Tensor) -> None:
        """Write [y², y]."""
        centred = out[:, self.embed_dim :]
        scale.place(x, out=centred)
        torch.mul(centred, centred, out=out[:, : self.embed_dim])

    def compute_log_prob(self, features: Tensor, coefficients: QuadraticCoefficients) -> Tensor:
        """Compute c_k − ½ ‖(y − m_k) R_k‖² for the L best by the surrogate, −inf elsewhere."""
        surrogate = torch.addmm(coefficients.offset + coefficients.slack, features, coefficients.weight)
        num_components = surrogate.shape[1]
        y = features[:, self.embed_dim :]
        best = surrogate.topk(min(self.hyper.top_components, num_components), dim=1).indices
        chosen = torch.zeros_like(surrogate).scatter(1, best, 1.0) > 0  # TorchScript has no scatter of Booleans
        if is_exporting():  # a graph cannot choose its rows: all components of all of them
            residuals = ((y[:, None] - coefficients.mean)[:, :, None] @ coefficients.root)[:, :, 0]
            return torch.where(chosen, coefficients.offset - 0.5 * residuals.square().sum(2), -torch.inf)
        found = torch.full_like(surrogate, -torch.inf)
        for k, rows in self._list_rows(chosen):
            residual = (y[rows] - coefficients.mean[k]) @ coefficients.root[k]
            found[rows, k] = coefficients.offset[k] - 0.5 * residual.square().sum(1)
        return found

    def sum_features(self, resp: Tensor, features: Tensor, out: Tensor) -> None:
        """Add Σ r y and Σ r y yᵀ over the rows that have a part in each component."""
        y = features[:, self.embed_dim :]
        out[:, : self.embed_dim] += resp.T @ y
        second = out[:, self.embed_dim :].view(-1, self.embed_dim, self.embed_dim)
        for k, rows in self._list_rows(resp > 0.0):
            part = y[rows]
            second[k] += (part * resp[rows, k, None]).T @ part

    def collect_features(self, labels: Tensor, features: Tensor, out: Tensor) -> None:
        """Add y and y yᵀ of labelled rows."""
        resp = torch.nn.functional.one_hot(labels, out.shape[0]).to(features.dtype)
        self.sum_features(resp, features, out)

    def build_posterior(self, scale: DataScale, counts: Tensor, sums: Tensor) -> NormalWishart:
        """Add statistics to the prior: κ = κ_0 + N, ν = ν_0 + N, Ψ = Ψ_0 + Σ r y yᵀ + N ε − κ m mᵀ."""
        first, second = self._split(sums)
        kappa = self.hyper.mean_strength + counts
        mean = first / kappa[:, None]
        noise = self.hyper.variance_floor * counts[:, None] * scale.variance
        scatter = second - first[:, :, None] * mean[:, None, :]
        scatter = scatter + torch.diag_embed(noise + self._prior_scatter(scale))
        return NormalWishart(mean, kappa, self.prior_dof + counts, 0.5 * (scatter + scatter.mT))

    def compute_expected_coefficients(self, scale: DataScale, params: NormalWishart) -> QuadraticCoefficients:
        """Compute E[log N(y | μ_k, Λ_k)] with the datum's own variance ε."""
        root, log_det = self._invert(params.scatter)
        precision_root = params.dof.sqrt()[:, None, None] * root
        log_precision = self._expect_log_det(params.dof) - log_det
        noise = self.hyper.variance_floor * (precision_root.square().sum(2) @ scale.variance)
        offset = 0.5 * (log_precision - self._log_two_pi() - self.embed_dim / params.kappa - noise)
        return self._assemble(params.mean, precision_root, offset, params.scatter, params.dof)

    def compute_predictive_coefficients(self, scale: DataScale, params: NormalWishart) -> QuadraticCoefficients:
        """Compute log N(y | m_k, S_k) with S_k the scale matrix of the Student-t predictive."""
        root, log_det = self._invert(params.scatter)
        factor = self._predictive_factor(params)
        offset = self._normalise(params, log_det)
        return self._assemble(params.mean, factor.sqrt()[:, None, None] * root, offset, params.scatter, factor)

    def compute_kl(self, scale: DataScale, params: NormalWishart) -> Tensor:
        """Compute the Normal-Wishart divergence."""
        prior = self._prior_scatter(scale)
        root, log_det = self._invert(params.scatter)
        dof, dim = params.dof, self.embed_dim
        prior_dof = dof.new_tensor(self.prior_dof)
        trace = dof * (root.square().sum(2) @ prior)
        expected_log_det = self._expect_log_det(dof)
        wishart = 0.5 * prior_dof * (log_det - prior.log().sum()) + 0.5 * (trace - dof * dim)
        wishart = wishart + torch.mvlgamma(0.5 * prior_dof, dim) - torch.mvlgamma(0.5 * dof, dim)
        wishart = wishart + 0.5 * (dof - prior_dof) * (expected_log_det - dim * math.log(2.0))
        ratio = self.hyper.mean_strength / params.kappa
        pull = (params.mean[:, None, :] @ root)[:, 0].square().sum(1) * dof * self.hyper.mean_strength
        return wishart + 0.5 * (dim * (ratio - 1.0 - ratio.log()) + pull)

    def compute_likelihood(self, statistics: Statistics, coefficients: QuadraticCoefficients) -> Tensor:
        """Compute N c − ½ tr P (Σ r y yᵀ − 2 m Σ r yᵀ + N m mᵀ)."""
        first, second = self._split(statistics.sums)
        mean, counts = coefficients.mean, statistics.counts
        cross = first[:, :, None] * mean[:, None, :]
        scatter = second - cross - cross.mT + counts[:, None, None] * mean[:, :, None] * mean[:, None, :]
        precision = coefficients.root @ coefficients.root.mT
        return counts * coefficients.offset - 0.5 * (precision * scatter).sum((1, 2))

    def compute_cross_likelihood(self, sums: Tensor, coefficients: QuadraticCoefficients) -> Tensor:
        """Compute the log density of mean features (A, F) under every component, (A, K)."""
        first, second = self._split(sums)
        precision = coefficients.root @ coefficients.root.mT
        pulled = (precision @ coefficients.mean[:, :, None])[:, :, 0]
        constant = coefficients.offset - 0.5 * (pulled * coefficients.mean).sum(1)
        return constant + first @ pulled.T - 0.5 * second.flatten(1) @ precision.flatten(1).T

    def get_means(self, scale: DataScale, params: NormalWishart) -> Tensor:
        """Get m_k plus the data mean."""
        return params.mean + scale.mean

    def get_precisions(self, scale: DataScale, params: NormalWishart) -> Tensor:
        """Get the precision matrix of the Student-t predictive, (K, D, D)."""
        root, _ = self._invert(params.scatter)
        return self._predictive_factor(params)[:, None, None] * (root @ root.mT)

    def compute_mode_log_density(self, scale: DataScale, params: NormalWishart) -> Tensor:
        """Compute ½ log |P_k / 2π|."""
        log_det = 2.0 * torch.linalg.cholesky(params.scatter).diagonal(dim1=1, dim2=2).log().sum(1)
        return self._normalise(params, log_det)

    def _normalise(self, params: NormalWishart, log_det: Tensor) -> Tensor:
        """½ log |P_k / 2π| from log |Ψ_k|, (K,)."""
        return 0.5 * (self.embed_dim * self._predictive_factor(params).log() - log_det - self._log_two_pi())

    def _predictive_factor(self, params: NormalWishart) -> Tensor:
        """(ν − D + 1) κ / (κ + 1), which turns Ψ⁻¹ into the predictive precision, (K,)."""
        return (params.dof - self.embed_dim + 1.0) * params.kappa / (params.kappa + 1.0)

    def _prior_scatter(self, scale: DataScale) -> Tensor:
        """The diagonal of Ψ_0, (D,): the prior variance times the pseudo-data."""
        return (self.prior_dof - self.embed_dim + 1.0) * self.hyper.variance_fraction * scale.variance

    def _split(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Σ r y (K, D) and Σ r y yᵀ (K, D, D)."""
        return sums[:, : self.embed_dim], sums[:, self.embed_dim :].view(-1, self.embed_dim, self.embed_dim)

    def _invert(self, scatter: Tensor) -> tuple[Tensor, Tensor]:
        """A root R of Ψ⁻¹ = R Rᵀ, (K, D, D), and log |Ψ|, (K,)."""
        lower = torch.linalg.cholesky(scatter)
        eye = torch.eye(self.embed_dim, dtype=scatter.dtype, device=scatter.device).expand_as(lower)
        root = torch.linalg.solve_triangular(lower, eye, upper=False).mT
        return root, 2.0 * lower.diagonal(dim1=1, dim2=2).log().sum(1)

    def _expect_log_det(self, dof: Tensor) -> Tensor:
        """E[log |Λ|] + log |Ψ|, (K,)."""
        steps = torch.arange(self.embed_dim, dtype=dof.dtype, device=dof.device)
        return torch.digamma(0.5 * (dof[:, None] - steps)).sum(1) + self.embed_dim * math.log(2.0)

    def _log_two_pi(self) -> float:
        return self.embed_dim * math.log(2.0 * math.pi)

    def _assemble(
        self, mean: Tensor, root: Tensor, offset: Tensor, scatter: Tensor, factor: Tensor
    ) -> QuadraticCoefficients:
        """Add the diagonal surrogate: same centre, the marginal variances."""
        precision = factor[:, None] / scatter.diagonal(dim1=1, dim2=2)
        scaled = precision * mean
        normaliser = 0.5 * (precision.log().sum(1) - self._log_two_pi())
        slack = normaliser - 0.5 * (scaled * mean).sum(1) - offset
        weight = torch.cat([-0.5 * precision, scaled], dim=1).T
        return QuadraticCoefficients(mean, root, offset, weight, slack)

    @staticmethod
    def _list_rows(chosen: Tensor) -> list[tuple[int, Tensor]]:
        """The components that any row has chosen, each with its rows. It waits for the device."""
        component, row = chosen.T.nonzero(as_tuple=True)
        sizes = torch.bincount(component, minlength=chosen.shape[1]).tolist()
        return [(k, rows) for k, rows in enumerate(row.split(sizes)) if len(rows)]
