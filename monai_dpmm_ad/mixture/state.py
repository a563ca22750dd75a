# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The state of a mixture as buffers of a PyTorch module: what is saved, moved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monai_dpmm_ad.errors import CheckpointError, NotFittedError
from monai_dpmm_ad.mixture.families import make_family
from monai_dpmm_ad.mixture.family import DataScale
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.memoized import Memoized
from monai_dpmm_ad.mixture.posterior import Posterior, build_posterior
from monai_dpmm_ad.mixture.statistics import Statistics, zero_statistics
from monai_dpmm_ad.mixture.variational import Model, State, Variational

if TYPE_CHECKING:
    from monai_dpmm_ad.mixture.pyro_model import PyroOptimizer

__all__ = ["MixtureState"]

CPU_CHUNK, DEVICE_CHUNK = 2048, 32768  # rows: the workspace stays in a CPU's cache, and fills a GPU


class MixtureState(nn.Module):
    """Statistics, q(α), the data's scale and the hyperparameters, and what follows from them.

    The shape of every buffer follows from the arguments, fitted or not.

    Args:
        num_components: K.
        embed_dim: D.
        covariance: the component family.
        hyper: priors and step sizes.
        chunk_size: rows at a time; by default as many as suit the device.
    """

    statistic_counts: Tensor
    statistic_sums: Tensor
    statistic_entropy: Tensor
    statistic_size: Tensor
    alpha_rate: Tensor
    data_mean: Tensor
    data_variance: Tensor
    hyperparameters: Tensor
    num_seen: Tensor
    fitted: Tensor

    _variational: Variational | None
    _posterior: Posterior | None
    _memoized: Memoized | None
    _pyro: PyroOptimizer | None
    _kept: Statistics | None

    def __init__(
        self, num_components: int, embed_dim: int, covariance: str, hyper: Hyperparameters, chunk_size: int | None
    ) -> None:
        super().__init__()
        self.num_components = num_components
        self.embed_dim = embed_dim
        self.covariance = covariance
        self.chunk_size = chunk_size
        num_features = make_family(covariance, embed_dim, hyper).num_features
        for name, tensor in zip(Statistics._fields, zero_statistics(num_components, num_features), strict=True):
            self.register_buffer(f"statistic_{name}", tensor)
        self.register_buffer("alpha_rate", torch.tensor(hyper.alpha_rate, dtype=torch.float64))
        self.register_buffer("data_mean", torch.zeros(embed_dim, dtype=torch.float64))
        self.register_buffer("data_variance", torch.ones(embed_dim, dtype=torch.float64))
        self.register_buffer("hyperparameters", hyper.to_tensor())
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))
        self._kept = None
        self._refresh()

    @property
    def state(self) -> State:
        """The state as the optimisers see it."""
        return State(
            Statistics(self.statistic_counts, self.statistic_sums, self.statistic_entropy, self.statistic_size),
            self.alpha_rate,
        )

    @property
    def model(self) -> Model:
        """The priors and the likelihood, as the hyperparameters and the data's scale define them."""
        return Model(
            make_family(self.covariance, self.embed_dim, self._hyper),
            DataScale(self.data_mean, self.data_variance),
            self.hyperparameters[0],
            self.hyperparameters[1],
        )

    @property
    def variational(self) -> Variational:
        """The factors that follow from the state."""
        if self._variational is None:
            self._variational = self.model.build(self.state)
        return self._variational

    @property
    def posterior(self) -> Posterior:
        """The fitted mixture as a density.

        Raises:
            NotFittedError: before a fit.
        """
        self._require_fitted()
        if self._posterior is None:
            chunk_size = self._choose_chunk(self.data_mean.device)
            self._posterior = build_posterior(self.model, self.state, self.variational, chunk_size)
        return self._posterior

    def _set_state(self, state: State) -> None:
        """Copy a state into the buffers."""
        for name, value in zip(Statistics._fields, state.statistics, strict=True):
            setattr(self, f"statistic_{name}", value)
        self.alpha_rate = state.alpha_rate
        self._variational = None
        self._posterior = None

    def _refresh(self) -> None:
        """Forget what was derived from the buffers: they have been changed from outside."""
        self._hyper = Hyperparameters.from_tensor(self.hyperparameters)
        self._is_fitted = bool(self.fitted)
        self._variational = None
        self._posterior = None
        self._memoized = None
        self._pyro = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MixtureState:
        """Move to a device; statistics stay float64 when the network around is made half or bfloat16."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        if self._kept is not None:
            self._kept = Statistics(*(move(part) for part in self._kept))
        self._refresh()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Load, having checked that the state is of a mixture of this size.

        Raises:
            CheckpointError: if it is not.
        """
        for name, buffer in self.named_buffers(recurse=False):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != buffer.shape:
                raise CheckpointError(
                    f"`{prefix}{name}` must have shape {tuple(buffer.shape)} for {self.num_components} components, "
                    f"{self.embed_dim} dimensions and {self.covariance} covariance, got {tuple(saved.shape)}. "
                    "Build the mixture with the arguments that it was saved with."
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._kept = None
        self._refresh()

    def _require_fitted(self) -> None:
        if not self._is_fitted:
            raise NotFittedError("The mixture has not been fitted. Call `fit`, or `initialize`, or load a state dict.")

    def _choose_chunk(self, device: torch.device) -> int:
        return self.chunk_size or (CPU_CHUNK if device.type == "cpu" else DEVICE_CHUNK)
