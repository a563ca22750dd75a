# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What every component likelihood provides, so that the optimisers need not know which one they fit.

A family is an exponential family with features t(y): the expected log density of a datum is linear in them,

    E_q[log p(y | θ_k)] = t(y)ᵀ w_k + c_k,

so the expectation step of a batch is one matrix product and its statistics are another.
Coordinates are those of `DataScale`: always *centred*, so that E[y²] − E[y]² does not cancel, and turned where it has
axes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
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
    """What the priors take from the data: their coordinates, and how far they spread along each.

    Args:
        mean: (D,), the shift that centres the data.
        variance: (D,), variance along each axis, positive.
        axes: (D, D), the axes as rows, which need not be orthogonal nor of unit length; None for the data's own.
        log_volume: 0-dim, log |det axes|.
    """

    mean: Tensor
    variance: Tensor
    axes: Tensor | None = None
    log_volume: Tensor | float = 0.0

    def to(self, dtype: torch.dtype) -> DataScale:
        """Convert to ``dtype``."""
        if self.axes is None:
            return DataScale(self.mean.to(dtype), self.variance.to(dtype))
        volume = torch.as_tensor(self.log_volume).to(dtype)
        return DataScale(self.mean.to(dtype), self.variance.to(dtype), self.axes.to(dtype), volume)

    def place(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute the coordinates of x (n, D), of its dtype: centred, then along the axes."""
        if self.axes is None:
            return torch.sub(x, self.mean, out=out)
        return torch.mm(x - self.mean, self.axes.T, out=out)

    def restore(self, y: Tensor) -> Tensor:
        """Compute the points in the data's own coordinates that have coordinates y (n, D)."""
        return self.mean + (y if self.axes is None else torch.linalg.solve(self.axes, y.T).T)


class Family(ABC):
    """A component likelihood with its conjugate prior; holds hyperparameters, no state.

    Args:
        embed_dim: D.
        hyper: the priors.
    """

    #: whether data must be unit vectors
    unit = False
    #: whether the coordinates have axes of their own, which the start of a fit estimates
    turned = False

    def __init__(self, embed_dim: int, hyper: Hyperparameters) -> None:
        self.embed_dim = embed_dim
        self.hyper = hyper

    @property
    @abstractmethod
    def num_features(self) -> int:
        """F, the length of t(y)."""

    @property
    def num_written(self) -> int:
        """How many numbers ``write_features`` writes for a datum: F unless the rest follows from them."""
        return self.num_features

    @abstractmethod
    def write_features(self, x: Tensor, scale: DataScale, out: Tensor) -> None:
        """Write t(y) of the rows ``x`` (n, D), whose coordinates are y, into ``out`` (n, F); all of one dtype."""

    def make_features(self, x: Tensor, scale: DataScale) -> Tensor:
        """Make t(y) of the rows ``x`` (n, D), whose coordinates are y: (n, num_written); all of one dtype."""
        features = x.new_empty(x.shape[0], self.num_written)
        self.write_features(x, scale, features)
        return features

    def compute_log_prob(self, features: Tensor, coefficients: Any) -> Tensor:
        """Compute the log density under every component, one matrix product.

        Args:
            features: (n, F), as written.
            coefficients: of them, in their dtype.

        Returns:
            (n, K), nats.
        """
        return torch.addmm(coefficients.offset, features, coefficients.weight)

    def sum_features(self, resp: Tensor, features: Tensor, out: Tensor) -> None:
        """Add Σ_n r_nk t(y_n) to ``out`` (K, F), for responsibilities (n, K): the other matrix product."""
        out += resp.T @ features

    def collect_features(self, labels: Tensor, features: Tensor, out: Tensor) -> None:
        """Add t(y_n) to the row of ``out`` (K, F) that the datum's label (n,) names."""
        out.index_add_(0, labels, features.to(out.dtype))

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
    def compute_expected_coefficients(self, scale: DataScale, params: Any) -> Any:
        """Compute E_q[log p(y | θ_k)] as coefficients of the features: the expectation step and the ELBO."""

    @abstractmethod
    def compute_predictive_coefficients(self, scale: DataScale, params: Any) -> Any:
        """Compute a normalised log density that stands for log E_q[p(y | θ_k)]: the score."""

    @abstractmethod
    def compute_kl(self, scale: DataScale, params: Any) -> Tensor:
        """Compute KL(q(θ_k) ‖ p(θ_k)), (K,), nats."""

    @abstractmethod
    def get_means(self, scale: DataScale, params: Any) -> Tensor:
        """Get the component centres in the data's own coordinates, (K, D)."""

    @abstractmethod
    def get_precisions(self, scale: DataScale, params: Any) -> Tensor:
        """Get the predictive precisions in the data's own coordinates: (K, D), (K, 1) if one is shared, (K, D, D)."""

    @abstractmethod
    def compute_mode_log_density(self, scale: DataScale, params: Any) -> Tensor:
        """Compute the largest value of each component's predictive log density, (K,), nats."""

    def compute_likelihood(self, statistics: Statistics, coefficients: Any) -> Tensor:
        """Compute Σ_n r_nk E[log p(y_n | θ_k)] from statistics alone.

        Returns:
            (K,), nats.
        """
        return (statistics.sums * coefficients.weight.T).sum(1) + statistics.counts * coefficients.offset

    def compute_cross_likelihood(self, features: Tensor, coefficients: Any) -> Tensor:
        """Compute E[log p(· | θ_k)] of mean features, (A, F), under every component.

        Returns:
            (A, K), nats.
        """
        return features @ coefficients.weight + coefficients.offset
