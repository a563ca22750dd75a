# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What every way of moving the state provides, so that the mixture need not know which one it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.distributed import sum_local_steps
from monai_dpmm_ad.mixture.expectation import LocalStep, run_local_step
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.validation import refuse_bad_rows
from monai_dpmm_ad.mixture.variational import Factors, MixtureState, Prior

__all__ = ["Batch", "Inference", "keep_if_finite", "measure_batch"]


class Batch(NamedTuple):
    """What a step gets.

    Args:
        rows: (n, D), this process's share.
        num_data: 0-dim float64, N, the size of the data set that the batches make up.
        chunk_size: rows at a time.
        shard: which batch of the data set this is, if that is known.
    """

    rows: Tensor
    num_data: Tensor
    chunk_size: int
    shard: int | None


class Inference(ABC):
    """One way to move the state of a mixture. What it remembers between steps is not saved with the state.

    Args:
        hyper: priors and step sizes.
    """

    name: ClassVar[str]
    #: whether a step gives the ELBO of the whole data set after it, rather than a batch's estimate of the one before
    exact: ClassVar[bool] = False

    def __init__(self, hyper: Hyperparameters) -> None:
        self.hyper = hyper

    @abstractmethod
    def step(self, prior: Prior, state: MixtureState, factors: Factors, batch: Batch) -> tuple[MixtureState, Tensor]:
        """Take one step on a batch.

        Args:
            prior: priors and likelihood.
            state: the present state.
            factors: of that state.
            batch: what to learn from.

        Returns:
            the next state, and the ELBO per datum, 0-dim, nats.
        """

    @abstractmethod
    def finish_epoch(
        self,
        prior: Prior,
        state: MixtureState,
        sample: Tensor | None,
        chunk_size: int,
        generator: torch.Generator,
        limit: int,
    ) -> tuple[MixtureState, int]:
        """Make the moves that raise the ELBO, after a pass over the data.

        Args:
            prior: priors and likelihood.
            state: the present state.
            sample: (n, D), drawn over the whole data set, where one was given.
            chunk_size: rows at a time.
            generator: the source of randomness, a CPU generator.
            limit: how many components there may be.

        Returns:
            the next state, and how many components were merged away, split or opened.

        Raises:
            ValueError: if a sample is needed and there is none.
        """

    def settle(self, prior: Prior, state: MixtureState) -> MixtureState:
        """End a pass over the data without moves."""
        return state

    def start_update(self, state: MixtureState) -> MixtureState:
        """Keep what has been learnt; the batches from here on are of new data alone.

        Raises:
            ValueError: with an inference that cannot.
        """
        raise ValueError(f"`inference` must be natural to take in new data, got '{self.name}'. Fit again.")

    def follow(self, move: Callable[[Tensor], Tensor]) -> Inference:
        """Get what goes on when the state has been moved to another device: here, a fresh start."""
        return type(self)(self.hyper)

    def require(self, sample: Tensor | None) -> Tensor:
        """Get the sample.

        Raises:
            ValueError: if there is none.
        """
        if sample is None:
            raise ValueError(
                f"`sample` must be given for {self.name} inference, got None. The one to start from will do."
            )
        return sample


def measure_batch(
    prior: Prior, factors: Factors, batch: Batch, groups: Tensor | None = None, screened: bool = False
) -> LocalStep:
    """Run the expectation step on a batch, of all processes together.

    Args:
        prior: priors and likelihood.
        factors: the global factors.
        batch: the data.
        groups: (C, K) bool, groups of components whose merge is to be measured.
        screened: leave out negligible responsibilities where that is faster.

    Raises:
        ValueError: on a CPU, if the batch holds values that are not finite; elsewhere asking would wait.
    """
    found = sum_local_steps(run_local_step(prior, factors, batch.rows, batch.chunk_size, groups, screened))
    if batch.rows.device.type == "cpu" and not torch.isfinite(found.evidence):
        refuse_bad_rows(batch.rows, prior.family.unit)
    return found


def keep_if_finite(found: LocalStep, moved: MixtureState, state: MixtureState) -> MixtureState:
    """Choose the moved state, or the former one after a bad batch, without waiting for the device."""
    if found.evidence.device.type == "cpu":  # where `measure_batch` has refused such a batch
        return moved
    good = torch.isfinite(found.evidence)
    statistics = (torch.where(good, a, b) for a, b in zip(moved.statistics, state.statistics, strict=True))
    rest = (torch.where(good, a, b) for a, b in zip(moved[1:], state[1:], strict=True))
    return MixtureState(Statistics(*statistics), *rest)
