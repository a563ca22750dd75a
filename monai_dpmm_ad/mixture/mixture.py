# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The Dirichlet process mixture as a PyTorch module: fit, score, save."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.axes import estimate_axes
from monai_dpmm_ad.mixture.distributed import fill_up
from monai_dpmm_ad.mixture.expectation import run_local_step
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.inference import Batch, make_inference
from monai_dpmm_ad.mixture.initialise import compute_data_scale, draw_sample, drop_far_rows, seed_statistics
from monai_dpmm_ad.mixture.module import MixtureModule, keep_dtype
from monai_dpmm_ad.mixture.validation import check_embeddings, check_num_data, refuse_bad_rows
from monai_dpmm_ad.utils.distributed import gather_rows, get_world_size, reduce_sum

__all__ = ["DirichletProcessMixture"]


class DirichletProcessMixture(MixtureModule):
    """A truncated Dirichlet process mixture for embeddings, fitted batch by batch by variational inference.

    Whatever the inference, the state is the same: expected statistics of the components and q(α). It lives in float64
    buffers whose shapes follow from the constructor's arguments, hyperparameters included, so ``state_dict`` holds
    everything that scoring or going on with the fit needs.

    Args:
        num_components: K, the truncation: the largest number of components.
        embed_dim: D.
        covariance: "spherical", "diagonal", "rotated" for diagonal along axes that all components share and that the
            start of a fit estimates, "full", or "vmf" for von Mises–Fisher components.
        inference: "natural", stochastic natural gradients; "pyro", Pyro's gradient SVI; "memoized", incremental
            variational Bayes with one cached statistic per batch.
        alpha_prior: shape and rate of the Gamma prior on the concentration α.
        mean_strength: see `Hyperparameters`, as are the other numbers.
        precision_shape: idem.
        variance_fraction: idem.
        variance_floor: idem.
        forgetting: idem.
        learning_rate: idem.
        top_components: idem.
        max_components: let the truncation grow: where no component is empty a split makes a new one, up to this and to
            one for every 200 data. ``num_components`` then tells how many there are now. Natural inference only.
        sample_size: how many embeddings ``fit`` draws to start from; by default 20 000 or 40 a component.
        chunk_size: rows at a time; by default as many as suit the device.
        seed: of every random draw.

    Raises:
        ValueError: if an argument is out of its range or names no option.

    Example:
        >>> import torch
        >>> from monai_dpmm_ad.mixture import DirichletProcessMixture
        >>> embeddings = torch.nn.functional.normalize(torch.randn(500, 16), dim=1)
        >>> mixture = DirichletProcessMixture(num_components=8, embed_dim=16).fit(embeddings.split(100))
        >>> mixture.cosine_distance(embeddings).shape
        torch.Size([500])
    """

    def __init__(
        self,
        num_components: int,
        embed_dim: int,
        covariance: str = "diagonal",
        inference: str = "natural",
        *,
        alpha_prior: tuple[float, float] = (1.0, 1.0),
        mean_strength: float = Hyperparameters.mean_strength,
        precision_shape: float = Hyperparameters.precision_shape,
        variance_fraction: float = Hyperparameters.variance_fraction,
        variance_floor: float = Hyperparameters.variance_floor,
        forgetting: float = Hyperparameters.forgetting,
        learning_rate: float = Hyperparameters.learning_rate,
        top_components: int = Hyperparameters.top_components,
        max_components: int | None = None,
        sample_size: int | None = None,
        chunk_size: int | None = None,
        seed: int = 0,
    ) -> None:
        sizes = {"num_components": num_components, "embed_dim": embed_dim, "sample_size": sample_size}
        for name, value in {**sizes, "chunk_size": chunk_size}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        hyper = Hyperparameters(
            alpha_shape=alpha_prior[0],
            alpha_rate=alpha_prior[1],
            mean_strength=mean_strength,
            precision_shape=precision_shape,
            variance_fraction=variance_fraction,
            variance_floor=variance_floor,
            forgetting=forgetting,
            learning_rate=learning_rate,
            top_components=top_components,
        )
        if max_components is not None and not (inference == "natural" and max_components >= num_components):
            raise ValueError(
                f"`max_components` must be at least num_components, and inference natural, got {max_components} for "
                f"{num_components} components and {inference} inference. Leave it out for a fixed truncation."
            )
        super().__init__(num_components, embed_dim, covariance, hyper, max_components, chunk_size)
        self.inference = inference
        self._inference = make_inference(inference, covariance, hyper)
        self.sample_size = max(20_000, 40 * num_components) if sample_size is None else sample_size
        self.seed = seed
        #: mean ELBO per datum of each epoch of the last ``fit``, nats
        self.history: list[float] = []

    def fit(
        self,
        batches: Iterable[Tensor],
        num_data: int | None = None,
        *,
        sample: Tensor | None = None,
        max_epochs: int = 10,
        tolerance: float = 1e-3,
        adapt: bool = True,
    ) -> DirichletProcessMixture:
        """Fit to a data set that is read batch by batch.

        Args:
            batches: any iterable of tensors (n, D) that can be read again and again; an embedding store is one.
            num_data: N, if the batches stand for a larger data set; counted while the sample is drawn if not given.
            sample: embeddings to start from, drawn over the whole data set; drawn in one pass if not given.
            max_epochs: passes over the data at most.
            tolerance: stop when an epoch raises the mean ELBO per datum by less than this, nats.
            adapt: merge and split components where that raises the ELBO.

        Returns:
            self.

        Raises:
            ValueError: if there are no embeddings, ``batches`` can be read only once, or a batch is bad.
        """
        if isinstance(batches, Iterator):
            raise ValueError(
                "`batches` must be readable more than once, got an iterator. Pass a list, a store or a loader."
            )
        check_num_data(num_data)
        if sample is None or num_data is None:
            drawn, seen = draw_sample(batches, -(-self.sample_size // get_world_size()), self._make_generator())
            sample = gather_rows(drawn) if sample is None else sample
            counted = int(reduce_sum(seen, self.data_mean.device))
            num_data = counted if num_data is None else num_data
        self.initialize(sample, num_data)
        self.history = []
        for _ in range(max_epochs):
            shared = fill_up(batches, self.embed_dim, self.data_mean.device)
            elbos = [self.partial_fit(batch, num_data, index) for index, batch in enumerate(shared)]
            self.history.append(float(elbos[-1] if self._inference.exact else torch.stack(elbos).mean()))
            moves = self.adapt(sample) if adapt else self._settle()
            if not moves and len(self.history) > 1 and self.history[-1] - self.history[-2] < tolerance:
                break
        return self

    @torch.no_grad()
    def initialize(self, sample: Tensor, num_data: int | None = None) -> DirichletProcessMixture:
        """Start from a sample: the data's scale, then k-means.

        Args:
            sample: (n, D), drawn over the whole data set, from many images; the same on all processes.
            num_data: N, the size of the data set; by default n.

        Returns:
            self, ready for ``partial_fit`` and for scoring.

        Raises:
            ValueError: if the sample is empty, of another dimension, or holds values that are not finite, or if
                ``num_data`` is not positive.
        """
        check_num_data(num_data)
        sample = check_embeddings(sample, self.embed_dim, self.data_mean.device)
        refuse_bad_rows(sample, self.prior.family.unit)
        num_data = sample.shape[0] if num_data is None else num_data
        typical = drop_far_rows(sample)
        scale = compute_data_scale(typical)
        if self.prior.family.turned:
            scale = estimate_axes(scale, typical, self.num_components, self._make_generator())
        self.data_mean, self.data_variance, self.data_axes, self._log_volume = scale
        prior = self.prior
        statistics = seed_statistics(
            prior.family, prior.scale, sample, self.num_components, self._make_generator()
        ).scale(num_data / sample.shape[0])
        fresh = self.state._replace(
            alpha_rate=torch.full_like(self.alpha_rate, self._hyper.alpha_rate),
            num_seen=torch.full_like(self.num_seen, sample.shape[0]),
        )
        self._set_state(prior.update(statistics, fresh))
        self.fitted = torch.ones_like(self.fitted)
        self._refresh()
        self._inference = make_inference(self.inference, self.covariance, self._hyper)
        return self

    @torch.no_grad()
    def partial_fit(self, batch: Tensor, num_data: int | None = None, index: int | None = None) -> Tensor:
        """Take one step on a batch; nothing waits for the device.

        A fresh mixture does not start from its first batch, as scikit-learn's estimators do: that is one image often,
        and components that are placed on one image stay there. ``initialize`` wants rows of many.

        Args:
            batch: (n, D), n ≥ 1; under torch.distributed each process gives its own.
            num_data: N, the size of the data set; by default as before.
            index: which batch of the data set this is; memoized inference needs it.

        Returns:
            0-dim, the ELBO per datum before the step, nats: the batch's estimate; for memoized inference the whole
            data set's after the step. In its first lap the start stands for batches that have not come yet, so the
            value is the data's own ELBO from the lap's last batch on, and does not fall from there on.

        Raises:
            NotFittedError: before ``initialize``.
            ValueError: if the batch is of another dimension, or holds values that are not finite, or if ``num_data``
                is not positive. On other devices than the CPU a batch that is not finite changes nothing and its ELBO
                is NaN.
        """
        self._require_fitted()
        check_num_data(num_data)
        rows = check_embeddings(batch, self.embed_dim, self.data_mean.device, allow_empty=get_world_size() > 1)
        size = self.statistic_size if num_data is None else torch.full_like(self.statistic_size, num_data)
        step = Batch(rows, size, self._choose_chunk(rows.device), index)
        state, elbo = self._inference.step(self.prior, self.state, self.factors, step)
        self._set_state(state)
        return elbo

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
        if sample is not None:
            sample = check_embeddings(sample, self.embed_dim, self.data_mean.device)
            refuse_bad_rows(sample, self.prior.family.unit)
        chunk_size = self._choose_chunk(self.data_mean.device)
        state, accepted = self._inference.finish_epoch(
            self.prior, self.state, sample, chunk_size, self._make_generator(), self.limit
        )
        self._set_state(state)
        return accepted

    @torch.no_grad()
    def start_update(self) -> None:
        """Keep what has been learnt and take in new data: ``partial_fit`` gets batches of those alone from here on.

        The statistics of the former data stay as they are, assigned as the former posterior did; ``num_data`` counts
        the new data. ``adapt``, given a sample of the new data, opens components for what is new among them, see
        `moves.novelty`, and merges others for it; it does no more than that. Ends with the next load of a state.

        Raises:
            NotFittedError: before a fit.
            ValueError: with another inference than natural gradients.

        Reference:
            Broderick, Boyd, Wibisono, Wilson and Jordan 2013, Streaming variational Bayes.
        """
        self._require_fitted()
        self._set_state(self._inference.start_update(self.state))

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
            ValueError: if ``num_data`` is not positive.
        """
        self._require_fitted()
        check_num_data(num_data)
        x = check_embeddings(x, self.embed_dim, self.data_mean.device)
        evidence = run_local_step(self.prior, self.factors, x, self._choose_chunk(x.device)).evidence
        return evidence * ((num_data or x.shape[0]) / x.shape[0]) - self.factors.kl

    def extra_repr(self) -> str:
        """Show the arguments that shape the state."""
        return f"{self.num_components}, {self.embed_dim}, covariance={self.covariance!r}, inference={self.inference!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DirichletProcessMixture:
        """Move to a device, and go on there."""
        super()._apply(fn, recurse)
        self._inference = self._inference.follow(keep_dtype(fn))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load, and begin to learn afresh."""
        super()._load_from_state_dict(*args, **kwargs)
        self._inference = make_inference(self.inference, self.covariance, self._hyper)

    def _settle(self) -> int:
        """End a pass over the data without moves."""
        self._set_state(self._inference.settle(self.prior, self.state))
        return 0

    def _make_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)
