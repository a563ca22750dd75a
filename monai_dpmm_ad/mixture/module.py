# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a mixture keeps as a PyTorch module, and what follows from it: a density, scores, a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from monai_dpmm_ad.errors import CheckpointError, NotFittedError
from monai_dpmm_ad.mixture.families import DataScale, make_family
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.posterior import Posterior, build_posterior
from monai_dpmm_ad.mixture.statistics import Statistics, zero_statistics
from monai_dpmm_ad.mixture.validation import check_embeddings, limit_length, refuse_bad_rows
from monai_dpmm_ad.mixture.variational import Factors, MixtureState, Prior

__all__ = ["MixtureModule", "keep_dtype"]

LEAST_SHARE = 200  # data for each component of a truncation that grows
CPU_CHUNK, DEVICE_CHUNK = 2048, 32768  # rows: the workspace stays in a CPU's cache, and fills a GPU


class MixtureModule(nn.Module):
    """The state of a mixture in float64 buffers, whose shapes follow from the arguments: how many components, too.

    Args:
        num_components: K.
        embed_dim: D.
        covariance: family of the components.
        hyper: priors and step sizes.
        max_components: how many components there may be at most; None for K.
        chunk_size: rows at a time; by default as many as suit the device.
    """

    statistic_counts: Tensor
    statistic_sums: Tensor
    statistic_entropy: Tensor
    statistic_size: Tensor
    alpha_rate: Tensor
    data_mean: Tensor
    data_variance: Tensor
    data_axes: Tensor | None
    hyperparameters: Tensor
    num_seen: Tensor
    fitted: Tensor

    _factors: Factors | None
    _posterior: Posterior | None

    def __init__(
        self,
        num_components: int,
        embed_dim: int,
        covariance: str,
        hyper: Hyperparameters,
        max_components: int | None,
        chunk_size: int | None,
    ) -> None:
        super().__init__()
        self.num_components = num_components
        self.embed_dim = embed_dim
        self.covariance = covariance
        self.max_components = max_components
        self.chunk_size = chunk_size
        self._register(hyper)
        self._refresh()

    @property
    def state(self) -> MixtureState:
        """The state as the optimisers see it."""
        statistics = (self.statistic_counts, self.statistic_sums, self.statistic_entropy, self.statistic_size)
        return MixtureState(Statistics(*statistics), self.alpha_rate, self.num_seen)

    @property
    def prior(self) -> Prior:
        """The priors and the likelihood, as the hyperparameters and the data's scale define them."""
        return Prior(
            make_family(self.covariance, self.embed_dim, self._hyper),
            DataScale(self.data_mean, self.data_variance, self.data_axes, self._log_volume),
            self.hyperparameters[0],
            self.hyperparameters[1],
        )

    @property
    def factors(self) -> Factors:
        """The factors that follow from the state."""
        if self._factors is None:
            self._factors = self.prior.build(self.state)
        return self._factors

    @property
    def posterior(self) -> Posterior:
        """The fitted mixture as a density.

        Raises:
            NotFittedError: before a fit.
        """
        self._require_fitted()
        if self._posterior is None:
            chunk_size = self._choose_chunk(self.data_mean.device)
            self._posterior = build_posterior(self.prior, self.state, self.factors, chunk_size)
        return self._posterior

    @property
    def limit(self) -> int:
        """How many components there may be: the truncation, or as many as it may grow to on so many data."""
        return max(self.num_components, min(self.max_components or 0, int(self.statistic_size) // LEAST_SHARE))

    # Scores ----------------------------------------------------------------------------------------------------------

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

    def summarise(self) -> dict[str, float]:
        """Report how the data's mass is spread over components, and whether more might be wanted: `Posterior`'s."""
        return self.posterior.summarise(self.limit)

    # Behind it -------------------------------------------------------------------------------------------------------

    def _register(self, hyper: Hyperparameters) -> None:
        """Make the buffers, whose shapes follow from the arguments, fitted or not."""
        family = make_family(self.covariance, self.embed_dim, hyper)
        statistics = zero_statistics(self.num_components, family.num_features)
        for name, tensor in zip(Statistics._fields, statistics, strict=True):
            self.register_buffer(f"statistic_{name}", tensor)
        self.register_buffer("alpha_rate", torch.tensor(hyper.alpha_rate, dtype=torch.float64))
        self.register_buffer("data_mean", torch.zeros(self.embed_dim, dtype=torch.float64))
        self.register_buffer("data_variance", torch.ones(self.embed_dim, dtype=torch.float64))
        self.register_buffer("data_axes", torch.eye(self.embed_dim, dtype=torch.float64) if family.turned else None)
        self.register_buffer("hyperparameters", hyper.to_tensor())
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def _set_state(self, state: MixtureState) -> None:
        """Copy a state into the buffers."""
        for name, value in zip(Statistics._fields, state.statistics, strict=True):
            setattr(self, f"statistic_{name}", value)
        self.alpha_rate = state.alpha_rate
        self.num_seen = state.num_seen
        self.num_components = len(state.statistics.counts)
        self._factors = None
        self._posterior = None

    def _refresh(self) -> None:
        """Derive everything afresh from the buffers: they have been changed from outside."""
        self._hyper = Hyperparameters.from_tensor(self.hyperparameters)
        self._is_fitted = bool(self.fitted)
        self._log_volume = 0.0 if self.data_axes is None else torch.linalg.slogdet(self.data_axes).logabsdet
        self._factors = None
        self._posterior = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MixtureModule:
        """Move to a device; statistics stay float64 when the network around is made half or bfloat16."""
        super()._apply(keep_dtype(fn), recurse)
        self._refresh()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Load, having checked that the state is of a mixture of this size.

        Raises:
            CheckpointError: if it is not.
        """
        counts = state_dict.get(prefix + "statistic_counts")
        if counts is not None and self.max_components is not None and 0 < len(counts) <= self.max_components:
            num_features = self.statistic_sums.shape[1]  # the stored truncation may have grown
            self._set_state(self.state._replace(statistics=zero_statistics(len(counts), num_features, counts.device)))
        for name, buffer in self.named_buffers(recurse=False):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != buffer.shape:
                raise CheckpointError(
                    f"`{prefix}{name}` must have shape {tuple(buffer.shape)} for {self.num_components} components, "
                    f"{self.embed_dim} dimensions and {self.covariance} covariance, got {tuple(saved.shape)}. "
                    "Build the mixture with the arguments that it was saved with."
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._refresh()

    @torch.no_grad()
    def _score(self, x: Tensor, method: str) -> Tensor:
        """Run a method of the posterior in float32, whatever autocast says: half precision cancels."""
        posterior = self.posterior
        x = check_embeddings(x, self.embed_dim, self.data_mean.device, allow_empty=True).float()
        x = limit_length(x)
        # Elsewhere the score is NaN: asking would wait, and a graph that is exported cannot ask.
        if posterior.family.unit and x.device.type == "cpu" and not torch.compiler.is_exporting():
            refuse_bad_rows(x, unit=True)
        with torch.autocast(x.device.type, enabled=False):
            result: Tensor = getattr(posterior, method)(x)
        return result

    def _require_fitted(self) -> None:
        if not self._is_fitted:
            raise NotFittedError("The mixture has not been fitted. Call `fit`, or `initialize`, or load a state dict.")

    def _choose_chunk(self, device: torch.device) -> int:
        return self.chunk_size or (CPU_CHUNK if device.type == "cpu" else DEVICE_CHUNK)


def keep_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make of a function that moves a tensor and changes its dtype one that only moves it."""

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move
