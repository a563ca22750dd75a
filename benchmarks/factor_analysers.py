# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A trial: low-rank plus diagonal components on top of a fitted mixture, by a few rounds of EM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_dpmm_ad.mixture import DirichletProcessMixture

__all__ = ["FactorAnalysers"]


class FactorAnalysers:
    """Gaussian components N(μ_k, Λ_k Λ_kᵀ + Ψ_k) of rank R, started from a diagonal mixture.

    Each round takes hard assignments, then for each component the principal directions of its residuals scaled by Ψ,
    shrunk towards the fitted diagonal by ``strength`` pseudo-data.

    Args:
        mixture: fitted, diagonal.
        x: (n, D), what it was fitted to.
        rank: R.
        rounds: of EM.
        strength: pseudo-data that hold each covariance at its diagonal start.
    """

    def __init__(self, mixture: DirichletProcessMixture, x: Tensor, rank: int, rounds: int = 3, strength: float = 50.0):
        posterior = mixture.posterior
        self.mean = posterior.means.clone()
        self.noise = 1.0 / posterior.precisions
        self.loadings = torch.zeros(*self.mean.shape, rank)
        self.log_weights = posterior.log_weights.clone()
        prior = self.noise.clone()
        for _ in range(rounds):
            labels = self.compute_log_joint(x).argmax(1)
            for k in range(len(self.mean)):
                rows = x[labels == k]
                if len(rows) > 1:
                    self._update(k, rows, prior[k], rank, strength)
            counts = torch.bincount(labels, minlength=len(self.mean)) + 0.5
            self.log_weights = (counts / counts.sum()).log()

    def _update(self, k: int, rows: Tensor, prior: Tensor, rank: int, strength: float) -> None:
        self.mean[k] = rows.mean(0)
        centred = rows - self.mean[k]
        total = len(rows) + strength
        variance = (centred.square().sum(0) + strength * prior) / total
        scale = variance.sqrt()
        scaled = centred / scale
        correlation = (scaled.T @ scaled + strength * torch.diag(prior / variance)) / total
        values, vectors = torch.linalg.eigh(correlation)
        floor = values[:-rank].mean()
        length = (values[-rank:] - floor).clamp(min=0.0).sqrt()
        self.loadings[k] = scale[:, None] * vectors[:, -rank:] * length
        self.noise[k] = (variance - self.loadings[k].square().sum(1)).clamp(min=0.05 * variance)

    def compute_log_joint(self, x: Tensor) -> Tensor:
        """Log weight plus log density, (n, K), by Woodbury's identity."""
        found = []
        for k in range(len(self.mean)):
            centred = (x - self.mean[k]) / self.noise[k].sqrt()
            loadings = self.loadings[k] / self.noise[k].sqrt()[:, None]
            lower = torch.linalg.cholesky(torch.eye(loadings.shape[1]) + loadings.T @ loadings)
            inner = torch.linalg.solve_triangular(lower, loadings.T @ centred.T, upper=False)
            distance = centred.square().sum(1) - inner.square().sum(0)
            log_det = self.noise[k].log().sum() + 2.0 * lower.diagonal().log().sum()
            found.append(-0.5 * (distance + log_det + x.shape[1] * math.log(2.0 * math.pi)))
        return torch.stack(found, 1) + self.log_weights

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, (n,)."""
        return torch.cat([self.compute_log_joint(rows).logsumexp(1) for rows in x.split(8192)])
