# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The main detector: a Dirichlet process mixture of normal patch embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from monai_dpmm_ad.calibration.drift import PatchSummary
from monai_dpmm_ad.detectors.base import Detector
from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.mixture import DirichletProcessMixture

__all__ = ["SCORES", "DPMMDetector"]

SCORES = ("log_density", "cosine", "euclidean", "mahalanobis")


class DPMMDetector(Detector):
    """Score patches by how far they lie from the components of a fitted mixture.

    All scores are non-negative and higher means more anomalous. ``cosine`` is the paper's
    1 − max_k cos(y, μ_k); ``log_density`` is the mixture's upper bound of log p minus log p(y), in nats.

    Args:
        embed_dim: D, size of one stage's patch embedding.
        num_stages: S, number of stages, which are normalised and concatenated.
        num_components: K, truncation of the mixture.
        covariance: ``diagonal``, ``spherical``, …: see :class:`~monai_dpmm_ad.mixture.DirichletProcessMixture`.
        inference: optimiser of the mixture, ``natural`` or ``pyro``.
        score: one of ``log_density``, ``cosine``, ``euclidean``, ``mahalanobis``.
        location_weight: see :class:`~monai_dpmm_ad.detectors.Detector`.
        seed: of the mixture's initialisation.
        max_components: how many components the truncation may grow to, where none is empty and the data ask for more;
            None keeps it. Natural inference only.

    Raises:
        ValueError: if an option has no such name, or ``inference`` is ``memoized``.

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
        max_components: int | None = None,
    ) -> None:
        super().__init__(embed_dim, num_stages, location_weight)
        if score not in SCORES:
            raise unknown_option("score", score, SCORES)
        if inference == "memoized":
            raise ValueError(
                "`inference` must be natural or pyro for a detector, got 'memoized'. It wants its batches in a fixed "
                "order, and a detector's are shuffled; fit a `DirichletProcessMixture` by itself for it."
            )
        self.score_name = score
        self.mixture = DirichletProcessMixture(
            num_components, self.feature_dim, covariance, inference, seed=seed, max_components=max_components
        )

    @property
    def fitted(self) -> bool:
        """Whether the mixture's components have been placed."""
        return bool(self.mixture.fitted)

    def initialize(self, sample: Mapping[str, Tensor], num_data: int) -> None:
        """Place the components on a sample of a data set of ``num_data`` rows."""
        self.mixture.initialize(self.features(sample), num_data)

    def start_update(self) -> None:
        """Keep what has been learnt; the batches from here on are of new data alone."""
        self.mixture.start_update()

    def fit_batch(self, rows: Mapping[str, Tensor], num_data: int) -> Tensor:
        """Take one optimiser step.

        Returns:
            0-dim: the ELBO estimate per patch, in nats.
        """
        return self.mixture.partial_fit(self.features(rows), num_data)

    def finish_epoch(self, draw_sample: Callable[[], Mapping[str, Tensor]]) -> None:
        """Merge components where that raises the ELBO, which a sample of the size to start from estimates."""
        features = self.features(draw_sample())
        step = -(-features.shape[0] // self.mixture.sample_size)
        self.mixture.adapt(features[::step])

    def describe(self) -> dict[str, float]:
        """How many components score, and how the data's mass is spread over them."""
        return self.mixture.summarise()

    @property
    def num_components(self) -> int:
        """K, truncation of the mixture: as many as there are now, where it may grow."""
        return self.mixture.num_components

    def component_weights(self) -> list[float]:
        """The components' expected weights, which sum to 1."""
        weights: list[float] = self.mixture.posterior.weights.tolist()
        return weights

    def summarise(self, rows: Mapping[str, Tensor], scores: Tensor) -> PatchSummary:
        """Log density and responsibilities of patches; ``scores`` are not needed."""
        return PatchSummary(self.criterion(rows), self.mixture.responsibilities(self.features(rows)).sum(0))

    def note(self) -> str | None:
        """Whether the truncation binds: the number of components is then the setting's, not the data's."""
        found = self.mixture.summarise()
        if not found["truncation_binds"]:
            return None
        remedy = "try a larger num_components, or let it grow: max_components"
        if self.mixture.max_components is not None:
            remedy = "there may be max_components of them, and one for every 200 patches"
        return f"all {found['num_components']} components of the mixture are in use, so more might fit better; {remedy}"

    def criterion(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Log density in nats, ``(n,)``: the paper's criterion for the best epoch."""
        return self.mixture.log_prob(self.features(rows))

    @property
    def log_prob_bound(self) -> Tensor:
        """Highest log density, 0-dim, nats.

        A property, since ``torch.jit.trace`` looks at every attribute before it traces: what the mixture computes once
        for it is then computed, and does not become part of the graph.
        """
        return self.mixture.log_prob_bound() if self.score_name == "log_density" else torch.zeros(())

    def score(self, features: Tensor) -> Tensor:
        """Score features ``(n, F)``: ``(n,)``, non-negative, higher = more anomalous."""
        if self.score_name == "log_density":
            return (self.log_prob_bound - self.mixture.log_prob(features)).clamp_min(0)
        return getattr(self.mixture, f"{self.score_name}_distance")(features)
