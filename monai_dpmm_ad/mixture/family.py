# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What every component likelihood provides, so that the optimisers need not know which one they fit.

A family is an exponential family with features t(y): the expected log density of a datum is linear in them,

    E_q[log p(y | θ_k)] = t(y)ᵀ w_k + c_k,

so the expectation step of a batch is one matrix product and its statistics are another.
Data are always *centred*: the caller subtracts the data mean, so that E[y²] − E[y]² does not cancel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.statistics import Statistics

__all__ = ["Coefficients", "DataScale", "Family"]


class Coefficients(NamedTuple):
    """A log density linear in the features, one column a component.

    Args:
        weight: (F, K).
        offset: (K,).
    """

    weight: Tensor
    offset: Tensor

    def to(self, dtype: torch.dtype) -> Coefficients:
        """Convert both to ``dtype``."""
        return Coefficients(self.weight.to(dtype), self.offset.to(dtype))


class DataScale(NamedTuple):
    """What the priors take from the data.

    Args:
        mean: (D,), the shift that centres the data.
        variance: (D,), variance per dimension, positive.
    """

    mean: Tensor
    variance: Tensor


class Family(ABC):
    """A component likelihood with its conjugate prior; holds hyperparameters, no state.

    Args:
        embed_dim: D.
    """

    #: whether ``features`` are small enough that the expectation step is one dense matrix product
    linear = True

    def __init__(self, embed_dim: int) -> None:
        self.embed_dim = embed_dim

    @property
    @abstractmethod
    def num_features(self) -> int:
        """F, the length of t(y)."""

    @abstractmethod
    def write_features(self, x: Tensor, shift: Tensor, out: Tensor) -> None:
        """Write t(x − shift) of the rows ``x`` (n, D) into ``out`` (n, F)."""

    @abstractmethod
    def build_posterior(self, scale: DataScale, counts: Tensor, sums: Tensor) -> Any:
        """Compute the optimal q(θ_k) given statistics: the prior's natural parameters plus them.

        Args:
            scale: sets the prior.
            counts: (K,).
            sums: (K, F).

        Returns:
            a named tuple of tensors with K rows.
        """

    @abstractmethod
    def compute_expected_coefficients(self, scale: DataScale, params: Any) -> Coefficients:
        """Compute E_q[log p(y | θ_k)] as coefficients of the features: the expectation step and the ELBO."""

    @abstractmethod
    def compute_predictive_coefficients(self, scale: DataScale, params: Any) -> Coefficients:
        """Compute a normalised log density that stands for log E_q[p(y | θ_k)]: the score."""

    @abstractmethod
    def compute_kl(self, scale: DataScale, params: Any) -> Tensor:
        """Compute KL(q(θ_k) ‖ p(θ_k)), (K,), nats."""

    @abstractmethod
    def get_means(self, scale: DataScale, params: Any) -> Tensor:
        """Get the component centres in the data's own coordinates, (K, D)."""

    @abstractmethod
    def get_precisions(self, params: Any) -> Tensor:
        """Get the predictive precisions: (K, D), or (K, D, D) for full covariance, or (K, 1) where one is shared."""

    @abstractmethod
    def compute_mode_log_density(self, params: Any) -> Tensor:
        """Compute the largest value of each component's predictive log density, (K,), nats."""

    def compute_evidence(self, statistics: Statistics, coefficients: Coefficients) -> Tensor:
        """Compute Σ_nk r_nk E[log p(y_n | θ_k)] from statistics alone.

        Returns:
            0-dim, nats.
        """
        products = torch.einsum("kf,fk->", statistics.sums, coefficients.weight)
        return products + (statistics.counts * coefficients.offset).sum()
