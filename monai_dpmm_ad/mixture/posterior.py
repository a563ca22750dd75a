# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The fitted mixture as a density: what every optimiser ends in, and what scores new embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import DataScale, Family
from monai_dpmm_ad.mixture.screening import LEAST_SIZE_SCORE, MARGIN, Screen, find_candidates, make_screen
from monai_dpmm_ad.mixture.sticks import compute_weights
from monai_dpmm_ad.mixture.variational import Factors, MixtureState, Prior, compute_weighted_log_prob, normalise
from monai_dpmm_ad.ops.distances import nearest_cosine_distance, nearest_euclidean_distance, split_rows

__all__ = ["Posterior", "build_posterior"]

MIN_WEIGHT = 1e-6  # a lighter component is dropped from every score, as in the paper
MIN_COUNT = 0.5  # so is one that holds less than half a datum: the prior's own mass, not the data's


@dataclass(frozen=True)
class Posterior:
    """The active components of a fitted mixture, in float32 unless it was built otherwise.

    ``log_prob`` is the mixture of each component's Gaussian (or von Mises–Fisher) predictive, its weights being E[π].

    Args:
        family: the component likelihood.
        params: q(θ) of the active components, float64.
        weights: (K,), E[π_k] of all components, sum one, float64.
        counts: (K,), expected number of data in each component, float64.
        active: (A,), indices of the components that score.
        means: (A, D), centres in the data's own coordinates.
        log_weights: (A,), log weights of the active components, renormalised.
        coefficients: predictive log density of the features, without weights.
        scale: the coordinates of the features.
        chunk_size: rows at a time.
        screen: finds the few components that matter to a datum; None where the dense way is as fast.
    """

    family: Family
    params: Any
    weights: Tensor
    counts: Tensor
    active: Tensor
    means: Tensor
    log_weights: Tensor
    coefficients: Any
    scale: DataScale
    chunk_size: int
    screen: Screen | None = None

    @cached_property
    def precisions(self) -> Tensor:
        """Predictive precisions, (A, D), (A, 1) or (A, D, D); computed when they are asked for."""
        return self.family.get_precisions(self.scale.to(torch.float64), self.params).to(self.means.dtype)

    @cached_property
    def mode_log_density(self) -> Tensor:
        """The largest log density of each component, (A,), nats; computed when it is asked for."""
        return self.family.compute_mode_log_density(self.scale.to(torch.float64), self.params).to(self.means.dtype)

    @property
    def num_active(self) -> int:
        """How many components score."""
        return int(self.active.shape[0])

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x).

        Args:
            x: (n, D).

        Returns:
            (n,), nats.
        """
        return self._reduce(x, self.log_weights, lambda log_prob: normalise(log_prob)[1], MARGIN)

    def log_prob_bound(self) -> Tensor:
        """Compute an upper bound of log p over all x: log Σ_k π_k max p(· | k), 0-dim, nats."""
        return torch.logsumexp(self.log_weights + self.mode_log_density, dim=0)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Compute p(z = k | x), zero for components that are not active.

        Args:
            x: (n, D).

        Returns:
            (n, K), rows sum to one.
        """
        found = x.new_zeros(x.shape[0], self.weights.shape[0])
        for rows, out in zip(x.split(self.chunk_size), found.split(self.chunk_size), strict=True):
            out[:, self.active] = self._weighted(rows).softmax(1)
        return found

    def cosine_distance(self, x: Tensor) -> Tensor:
        """Compute 1 − max_k cos(x, μ_k) over active components, (n,)."""
        return nearest_cosine_distance(x, self.means, self.chunk_size)

    def euclidean_distance(self, x: Tensor) -> Tensor:
        """Compute min_k ‖x − μ_k‖ over active components, (n,)."""
        return nearest_euclidean_distance(x, self.means, self.chunk_size)

    def mahalanobis_distance(self, x: Tensor) -> Tensor:
        """Compute min_k of the distance to μ_k in units of component k's spread, over active components, (n,)."""
        nearest = self._reduce(x, -self.mode_log_density, lambda log_prob: log_prob.amax(1), 0.0)
        return nearest.mul_(-2.0).clamp_(min=0.0).sqrt_()

    def count_components(self, mass: float = 0.99) -> int:
        """Count the heaviest components that together carry a share of the data.

        Args:
            mass: the share, in (0, 1].

        Returns:
            the least number of components whose counts reach it.

        Raises:
            ValueError: if ``mass`` is out of range.
        """
        if not 0.0 < mass <= 1.0:
            raise ValueError(f"`mass` must be in (0, 1], got {mass}.")
        share = self.counts.sort(descending=True).values.cumsum(0) / self.counts.sum()
        return min(int((share < mass).sum()) + 1, self.counts.shape[0])

    def summarise(self, limit: int | None = None) -> dict[str, float]:
        """Report how many components there are, how many score, and how the data's mass is spread over them.

        Args:
            limit: how many components there may be, of a truncation that can grow; by default K.

        Returns:
            ``num_components`` K, ``num_active``, ``components_for_90_percent`` and ``…_99_percent`` of the mass,
            ``effective_components``, the exponential of the entropy of the shares, and ``truncation_binds``, whether
            every component is active, and there may not be more: they might be, if they could.
        """
        share = self.counts.clamp(min=0.0) / self.counts.sum()
        return {
            "num_components": self.weights.shape[0],
            "num_active": self.num_active,
            "truncation_binds": self.num_active >= (limit or self.weights.shape[0]),
            "components_for_90_percent": self.count_components(0.9),
            "components_for_99_percent": self.count_components(0.99),
            "effective_components": round(float(torch.special.entr(share).sum().exp()), 1),
        }

    def _reduce(self, x: Tensor, bias: Tensor, reduce: Callable[[Tensor], Tensor], margin: float) -> Tensor:
        """Reduce log density plus bias over components: (n,).

        Args:
            x: (n, D).
            bias: (A,).
            reduce: takes (n, any number of components), those left out being −inf.
            margin: how far behind the best a component does not matter, nats.
        """
        coefficients = self.coefficients._replace(offset=self.coefficients.offset + bias)
        screen = None if torch.jit.is_tracing() or torch.compiler.is_compiling() else self.screen
        parts = []
        for rows in split_rows(x, self.chunk_size):
            features = self.family.make_features(rows, self.scale)
            if screen is None:
                parts.append(reduce(self.family.compute_log_prob(features, coefficients)))
                continue
            found = find_candidates(screen._replace(offset=coefficients.offset), features, margin)
            part, rest = reduce(found.log_prob), ~found.complete
            part[rest] = reduce(self.family.compute_log_prob(features[rest], coefficients))
            parts.append(part)
        return torch.cat(parts)

    def _weighted(self, x: Tensor) -> Tensor:
        """Log weight plus log density, (n, A)."""
        coefficients = self.coefficients._replace(offset=self.coefficients.offset + self.log_weights)
        return compute_weighted_log_prob(self.family, coefficients, self.scale, x)


def build_posterior(
    prior: Prior, state: MixtureState, factors: Factors, chunk_size: int, dtype: torch.dtype = torch.float32
) -> Posterior:
    """Make the density of a fitted state.

    Args:
        prior: priors and likelihood.
        state: statistics and q(α).
        factors: the factors of that state.
        chunk_size: rows at a time when scoring.
        dtype: of the density; build it in float64 for exact comparisons.

    Returns:
        the posterior over active components; the heaviest one is active whatever its weight.
    """
    weights = compute_weights(factors.sticks)
    counts = state.statistics.counts
    keep = (weights > MIN_WEIGHT) & (counts >= MIN_COUNT)
    keep = keep | (counts == counts.max())
    active = keep.nonzero()[:, 0]
    params = type(factors.params)(*(p[active] for p in factors.params))
    family, scale = prior.family, prior.scale
    coefficients = family.compute_predictive_coefficients(scale, params).to(dtype)
    return Posterior(
        family=family,
        params=params,
        weights=weights,
        counts=counts,
        active=active,
        means=family.get_means(scale, params).to(dtype),
        log_weights=(weights[active] / weights[active].sum()).log().to(dtype),
        coefficients=coefficients,
        scale=scale.to(dtype),
        chunk_size=chunk_size,
        screen=make_screen(coefficients, LEAST_SIZE_SCORE),
    )
