# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The main detector: a Dirichlet process mixture of normal patch embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.ops.patches import normalize_embeddings

__all__ = ["SCORES", "DPMMDetector"]

SCORES = ("log_density", "cosine", "euclidean", "mahalanobis")
LOCATION_DIM = 3


class DPMMDetector(nn.Module):
    """Score patches by how far they lie from the components of a fitted mixture.

    All scores are non-negative and higher means more anomalous. ``cosine`` is the paper's
    1 − max_k cos(y, μ_k); ``log_density`` is the mixture's upper bound of log p minus log p(y), in nats.

    Args:
        embed_dim: D, size of one stage's patch embedding.
        num_stages: S, number of stages, which are normalised and concatenated.
        num_components: K, truncation of the mixture.
        covariance: ``diagonal``, ``spherical``, …: see :class:`~monai_dpmm_ad.mixture.DirichletProcessMixture`.
        inference: optimiser of the mixture, ``natural`` or ``pyro``; ``memoized`` wants its batches in a fixed order,
            which the trainer's shuffled ones are not.
        score: one of ``log_density``, ``cosine``, ``euclidean``, ``mahalanobis``.
        location_weight: weight of the patch's relative location (row, column, slice; each in [0, 1]) appended to the
            unit embedding; 0 leaves it out.
        seed: of the mixture's initialisation.

    Reference:
        Schulthess and Konukoglu, MICCAI 2025, arXiv 2509.19997. The inference and the log density are ours.
    """

    def __init__(
        self,
        embed_dim: int,
        num_stages: int = 1,
        num_components: int = 256,
        covariance: str = "diagonal",
        inference: str = "natural",
        score: str = "log_density",
        location_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise unknown_option("score", score, SCORES)
        if not location_weight >= 0:
            raise ValueError(f"`location_weight` must be at least 0, got {location_weight}.")
        self.score_name = score
        self.location_weight = float(location_weight)
        self.feature_dim = embed_dim * num_stages + (LOCATION_DIM if location_weight else 0)
        self.mixture = DirichletProcessMixture(num_components, self.feature_dim, covariance, inference, seed=seed)

    @property
    def fitted(self) -> bool:
        """Whether the mixture's components have been placed."""
        return bool(self.mixture.fitted)

    def features(self, patches: Tensor, location: Tensor | None) -> Tensor:
        """Turn patch embeddings into the vectors that the mixture models.

        Args:
            patches: ``(..., S, D)``, raw embeddings of S stages.
            location: ``(..., 3)``, relative row, column and slice position in [0, 1]; None where the weight is 0.

        Returns:
            ``(..., S·D)`` or ``(..., S·D + 3)``, float32, each stage of unit length up to a factor 1/√S.

        Raises:
            ValueError: when the mixture needs locations and gets none.
        """
        unit = normalize_embeddings(patches.float()) / patches.shape[-2] ** 0.5
        unit = unit.flatten(-2)
        if not self.location_weight:
            return unit
        if location is None:
            raise ValueError(
                "`location` must be given to a detector with location_weight > 0, got None. "
                "Run the network through `VolumeInferer`, which passes the slices' positions."
            )
        return torch.cat([unit, self.location_weight * (location.to(unit) - 0.5)], dim=-1)

    def initialize(self, sample: Tensor, num_data: int) -> None:
        """Place the components on a sample of features ``(n, D')`` of a data set of ``num_data`` rows."""
        self.mixture.initialize(sample, num_data)

    def fit_batch(self, features: Tensor, num_data: int) -> Tensor:
        """Take one optimiser step on features ``(n, D')``.

        Returns:
            0-dim: the ELBO estimate per patch, in nats.
        """
        return self.mixture.partial_fit(features, num_data)

    def log_likelihood(self, features: Tensor) -> Tensor:
        """Log density of features ``(n, D')`` in nats, ``(n,)``."""
        return self.mixture.log_prob(features)

    def score(self, features: Tensor) -> Tensor:
        """Score features ``(n, D')``: ``(n,)``, non-negative, higher = more anomalous."""
        if self.score_name == "log_density":
            return (self.mixture.log_prob_bound() - self.mixture.log_prob(features)).clamp_min(0)
        return getattr(self.mixture, f"{self.score_name}_distance")(features)
