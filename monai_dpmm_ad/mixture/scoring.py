# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the state of a mixture says of embeddings: the ELBO and the scores."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.checks import check_embeddings, refuse_bad_rows
from monai_dpmm_ad.mixture.local_step import run_local_step
from monai_dpmm_ad.mixture.state import MixtureState

__all__ = ["ScoringMixture"]


class ScoringMixture(MixtureState):
    """A state that judges embeddings, having checked them."""

    @torch.no_grad()
    def elbo(self, x: Tensor, num_data: int | None = None) -> Tensor:
        """Compute the ELBO of data under the present factors, q(z) at its optimum.

        Args:
            x: (n, D).
            num_data: N, if ``x`` stands for a larger data set.

        Returns:
            0-dim float64, nats, of N data.

        Raises:
            NotFittedError: before a fit.
        """
        self._require_fitted()
        x = check_embeddings(x, self.embed_dim, self.data_mean.device)
        evidence = run_local_step(self.model, self.variational, x, self._choose_chunk(x.device)).evidence
        return evidence * ((num_data or x.shape[0]) / x.shape[0]) - self.variational.kl

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute the log predictive density of x (n, D): (n,), nats."""
        return self._score(x, "log_prob")

    def responsibilities(self, x: Tensor) -> Tensor:
        """Compute p(z = k | x) of x (n, D): (n, K), rows sum to one."""
        return self._score(x, "responsibilities")

    def cosine_distance(self, x: Tensor) -> Tensor:
        """Compute 1 − max_k cos(x, μ_k) over active components of x (n, D): (n,)."""
        return self._score(x, "cosine_distance")

    def euclidean_distance(self, x: Tensor) -> Tensor:
        """Compute the distance of x (n, D) to the nearest active centre: (n,)."""
        return self._score(x, "euclidean_distance")

    def mahalanobis_distance(self, x: Tensor) -> Tensor:
        """Compute the least distance of x (n, D) in units of an active component's own spread: (n,)."""
        return self._score(x, "mahalanobis_distance")

    def log_prob_bound(self) -> Tensor:
        """Compute an upper bound of ``log_prob`` over all x: bound − log_prob(x) ≥ 0 is a score. 0-dim, nats."""
        return self.posterior.log_prob_bound()

    @torch.no_grad()
    def _score(self, x: Tensor, method: str) -> Tensor:
        """Run a method of the posterior in float32, whatever autocast says: half precision cancels."""
        posterior = self.posterior
        x = check_embeddings(x, self.embed_dim, self.data_mean.device, allow_empty=True).float()
        # Elsewhere the score is NaN: asking would wait, and a graph that is exported cannot ask.
        if posterior.family.unit and x.device.type == "cpu" and not torch.compiler.is_exporting():
            refuse_bad_rows(x, unit=True)
        with torch.autocast(x.device.type, enabled=False):
            result: Tensor = getattr(posterior, method)(x)
        return result
