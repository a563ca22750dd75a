# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How the state of a mixture learns: its start from a sample, one step on a batch, the moves between epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.adapt import adapt_to_sample
from monai_dpmm_ad.mixture.checks import check_embeddings, refuse_bad_rows
from monai_dpmm_ad.mixture.distributed import sum_local_steps
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.initialise import compute_data_scale, seed_statistics
from monai_dpmm_ad.mixture.local_step import run_local_step
from monai_dpmm_ad.mixture.memoized import Memoized
from monai_dpmm_ad.mixture.natural import compute_learning_rate, take_natural_step
from monai_dpmm_ad.mixture.novelty import admit_novelty
from monai_dpmm_ad.mixture.scoring import ScoringMixture
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import State, compute_elbo
from monai_dpmm_ad.utils.distributed import get_world_size

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LearningMixture"]


class LearningMixture(ScoringMixture):
    """A state that learns batch by batch.

    Args:
        num_components: K, the truncation.
        embed_dim: D.
        covariance: the component family.
        inference: "natural", "pyro" or "memoized".
        hyper: priors and step sizes.
        restarts: k-means++ seedings to try.
        chunk_size: rows at a time; by default as many as suit the device.
        seed: of every random draw.
    """

    def __init__(
        self,
        num_components: int,
        embed_dim: int,
        covariance: str,
        inference: str,
        hyper: Hyperparameters,
        restarts: int,
        chunk_size: int | None,
        seed: int,
    ) -> None:
        super().__init__(num_components, embed_dim, covariance, hyper, chunk_size)
        self.inference = inference
        self.restarts = restarts
        self.seed = seed

    @torch.no_grad()
    def initialize(self, sample: Tensor, num_data: int | None = None) -> Self:
        """Start from a sample: the data's scale, then k-means++ with restarts.

        Args:
            sample: (n, D), drawn over the whole data set, from many images; the same on all processes.
            num_data: N, the size of the data set; by default n.

        Returns:
            self, ready for ``partial_fit`` and for scoring.

        Raises:
            ValueError: if the sample is empty, of another dimension, or holds values that are not finite.
        """
        sample = check_embeddings(sample, self.embed_dim, self.data_mean.device)
        refuse_bad_rows(sample, self.model.family.unit)
        num_data = sample.shape[0] if num_data is None else num_data
        self.data_mean, self.data_variance = compute_data_scale(sample)
        model = self.model
        statistics = seed_statistics(
            model.family, model.scale, sample, self.num_components, self.restarts, self._make_generator()
        ).scale(num_data / sample.shape[0])
        self._set_state(model.update(statistics, torch.full_like(self.alpha_rate, self._hyper.alpha_rate)))
        self.num_seen = torch.full_like(self.num_seen, sample.shape[0])
        self.fitted = torch.ones_like(self.fitted)
        self._refresh()
        return self

    @torch.no_grad()
    def partial_fit(self, batch: Tensor, num_data: int | None = None, index: int | None = None) -> Tensor:
        """Take one step on a batch; nothing waits for the device.

        Args:
            batch: (n, D), n ≥ 1; under torch.distributed each process gives its own.
            num_data: N, the size of the data set; by default as before.
            index: which batch of the data set this is; memoized inference needs it.

        Returns:
            0-dim, the ELBO per datum before the step, nats: the batch's estimate, for memoized inference the whole
            data set's after the step.

        Raises:
            NotFittedError: before ``initialize``.
            ValueError: if the batch is of another dimension, or holds values that are not finite. On other devices
                than the CPU such a batch changes nothing and its ELBO is NaN.
        """
        self._require_fitted()
        batch = check_embeddings(batch, self.embed_dim, self.data_mean.device, allow_empty=get_world_size() > 1)
        size = self.statistic_size if num_data is None else torch.full_like(self.statistic_size, num_data)
        if self.inference == "pyro":
            state, elbo = self._take_pyro_step(batch, size)
        else:
            state, elbo = self._take_conjugate_step(batch, size, index)
        self._set_state(state)
        return elbo

    def _take_conjugate_step(self, batch: Tensor, size: Tensor, index: int | None) -> tuple[State, Tensor]:
        """A step from a batch's statistics: natural gradients or memoized."""
        model, variational, state = self.model, self.variational, self.state
        chunk_size = self._choose_chunk(batch.device)
        tree = self._memoized.tree if self._memoized is not None else None
        groups = tree.groups if tree is not None else None
        screened = self.inference == "natural"  # the ELBO of memoized inference must not fall by rounding either
        found = sum_local_steps(run_local_step(model, variational, batch, chunk_size, groups, screened))
        if batch.device.type == "cpu" and not torch.isfinite(found.evidence):
            refuse_bad_rows(batch, self.model.family.unit)
        if self.inference == "natural":
            rate = compute_learning_rate(self.num_seen, found.statistics.size, self._hyper.forgetting)
            self.num_seen = self.num_seen + found.statistics.size
            moved = take_natural_step(model, state, found.statistics, size, rate, self._kept)
            total = size if self._kept is None else size + self._kept.size
            elbo = found.evidence / found.statistics.size - variational.kl / total
        else:
            if index is None:
                raise ValueError("`index` must say which batch this is for memoized inference, got None.")
            if self._memoized is None:
                self._memoized = Memoized(state.statistics.scale(size / state.statistics.size))
            moved = self._memoized.step(model, state, found, index, batch.sum(dtype=torch.float64))
            elbo = compute_elbo(model, moved.statistics, model.build(moved)) / size
        if batch.device.type != "cpu":  # a bad batch must not poison the state, and asking for it would wait
            moved = _choose(torch.isfinite(found.evidence), moved, state)
        return moved, elbo

    @torch.no_grad()
    def start_update(self) -> None:
        """Keep what has been learnt and take in new data: ``partial_fit`` gets batches of those alone from here on.

        The statistics of the former data stay as they are, assigned as the former posterior did; ``num_data`` counts
        the new data. ``adapt``, given a sample of the new data, opens components for what is new among them, see
        `novelty`, and merges others for it; it does no more than that. Ends with the next load of a state.

        Raises:
            NotFittedError: before a fit.
            ValueError: with another inference than natural gradients.

        Reference:
            Broderick, Boyd, Wibisono, Wilson and Jordan 2013, Streaming variational Bayes.
        """
        self._require_fitted()
        if self.inference != "natural":
            raise ValueError(f"`inference` must be natural to take in new data, got '{self.inference}'. Fit again.")
        self._kept = Statistics(*(part.clone() for part in self.state.statistics))
        self.num_seen = torch.zeros_like(self.num_seen)

    def _take_pyro_step(self, batch: Tensor, size: Tensor) -> tuple[State, Tensor]:
        """A step of Pyro's SVI; Pyro is imported only here."""
        refuse_bad_rows(batch, self.model.family.unit)
        if self._pyro is None:
            from monai_dpmm_ad.mixture.pyro_model import PyroOptimizer

            self._pyro = PyroOptimizer(self.model, self.state, self._hyper.learning_rate)
        state, elbo = self._pyro.step(self.model, batch, size)
        return state, elbo / size

    @torch.no_grad()
    def adapt(self, sample: Tensor | None = None) -> int:
        """Merge and split components where that raises the ELBO, and order them by size; best after each epoch.

        Memoized inference only merges: its cache cannot tell what each half of a component would have held.

        Args:
            sample: (n, D), drawn over the whole data set, the same on all processes; it estimates the ELBO's data
                term. Memoized inference knows the whole ELBO from its cache and needs none.

        Returns:
            how many components were merged away or split; in an update, how many were opened.

        Raises:
            NotFittedError: before ``initialize``.
            ValueError: if a sample is needed and there is none, or it holds values that are not finite.
        """
        self._require_fitted()
        if self._memoized is not None:
            accepted = self._finish_lap()
            self._memoized.start_lap(self.model, self.state)
            return accepted
        if sample is None:
            raise ValueError(
                f"`sample` must be given for {self.inference} inference, got None. The one to start from will do."
            )
        sample = check_embeddings(sample, self.embed_dim, self.data_mean.device)
        refuse_bad_rows(sample, self.model.family.unit)
        chunk_size = self._choose_chunk(sample.device)
        if self._kept is not None:
            state, self._kept, accepted = admit_novelty(
                self.model, self.state, self._kept, sample, chunk_size, self._make_generator()
            )
            self._set_state(state)
            return accepted
        state, accepted = adapt_to_sample(self.model, self.state, sample, chunk_size, self._make_generator())
        if accepted or self.inference != "pyro":  # Adam's momentum outlives an epoch that changed nothing
            self._set_state(state)
            self._pyro = None
        return accepted

    def _finish_lap(self) -> int:
        """Settle the lap of memoized inference; returns how many components were merged away."""
        if self._memoized is None:
            return 0
        state, accepted = self._memoized.finish_lap(self.model, self.state)
        self._set_state(state)
        return accepted

    def _make_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def _choose(condition: Tensor, yes: State, no: State) -> State:
    """Choose between two states on the device."""
    statistics = (torch.where(condition, a, b) for a, b in zip(yes.statistics, no.statistics, strict=True))
    return State(Statistics(*statistics), torch.where(condition, yes.alpha_rate, no.alpha_rate))
