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
        delay: τ of the learning rate (t + τ)^−κ, at least 1.
        forgetting: κ of the learning rate, in (0.5, 1].
        learning_rate: Adam's, for Pyro.

    Raises:
        ValueError: if a number is out of its range.
    """

    alpha_shape: float = 1.0
    alpha_rate: float = 1.0
    mean_strength: float = 0.1
    precision_shape: float = 1.0
    variance_fraction: float = 0.2
    variance_floor: float = 1e-4
    delay: float = 1.0
    forgetting: float = 0.7
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"`{name}` must be a positive finite number, got {value}.")
        if self.delay < 1.0:
            raise ValueError(f"`delay` must be at least 1, got {self.delay}. The first learning rate is delay^-forgetting.")
        if not 0.5 < self.forgetting <= 1.0:
            raise ValueError(
                f"`forgetting` must be in (0.5, 1], got {self.forgetting}. Other rates do not converge; 0.7 is usual."
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
        return cls(**dict(zip((f.name for f in fields(cls)), values.tolist(), strict=True)))
