# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The numbers that define the priors and the step sizes, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

__all__ = ["Hyperparameters"]


@dataclass(frozen=True)
class Hyperparameters:
    """Priors and step sizes of a mixture.

    Args:
        alpha_shape: s_1 of the Gamma prior on the concentration α.
        alpha_rate: s_2 of that prior.
        mean_strength: κ_0, how many pseudo-data hold a component's centre at the data mean.
        precision_shape: a_0 of the Gamma prior on precisions, in half pseudo-data.
        variance_fraction: a component's prior variance as a fraction of the data's.
        variance_floor: each datum's own variance as a fraction of the data's: the least width of a component.
        forgetting: κ of the natural gradients' learning rate, (t + τ)^−κ, in (0.5, 1].
        learning_rate: Adam's, for Pyro.
        top_components: L, how many components may share a datum, for full covariance.

    Raises:
        ValueError: if a number is out of its range.
    """

    alpha_shape: float = 1.0
    alpha_rate: float = 1.0
    mean_strength: float = 0.1
    precision_shape: float = 1.0
    variance_fraction: float = 0.5
    variance_floor: float = 1e-4
    forgetting: float = 0.55
    learning_rate: float = 0.05
    top_components: int = 4

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"`{name}` must be a positive finite number, got {value}.")
        if not 0.5 < self.forgetting <= 1.0:
            raise ValueError(
                f"`forgetting` must be in (0.5, 1], got {self.forgetting}. Other rates do not converge; 0.55 is fast."
            )

    def to_tensor(self) -> Tensor:
        """Pack into a float64 vector, in the order of the fields."""
        return torch.tensor(list(asdict(self).values()), dtype=torch.float64)

    @classmethod
    def from_tensor(cls, values: Tensor) -> Hyperparameters:
        """Unpack what ``to_tensor`` packed.

        Args:
            values: one number a field, in their order.
        """
        named = dict(zip((f.name for f in fields(cls)), values.tolist(), strict=True))
        return cls(**{**named, "top_components": int(named["top_components"])})
