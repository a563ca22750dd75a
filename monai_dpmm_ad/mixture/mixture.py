# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The Dirichlet process mixture as a PyTorch module: fit, score, save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.mixture.distributed import fill_up
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.initialise import draw_sample
from monai_dpmm_ad.mixture.learning import LearningMixture
from monai_dpmm_ad.utils.distributed import gather_rows, get_world_size, reduce_sum

__all__ = ["DirichletProcessMixture"]

INFERENCES = ("natural", "pyro", "memoized")


class DirichletProcessMixture(LearningMixture):
    """A truncated Dirichlet process mixture for embeddings, fitted batch by batch by variational inference.

    Whatever the inference, the state is the same: expected statistics of the components and q(α). It lives in float64
    buffers whose shapes follow from the constructor's arguments, hyperparameters included, so ``state_dict`` holds
    everything that scoring or going on with the fit needs.

    Args:
        num_components: K, the truncation: the largest number of components.
        embed_dim: D.
        covariance: "spherical", "diagonal", "full", or "vmf" for von Mises–Fisher components.
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
        restarts: k-means++ seedings to try.
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
        restarts: int = 3,
        sample_size: int | None = None,
        chunk_size: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in [("num_components", num_components), ("embed_dim", embed_dim), ("restarts", restarts)]:
            if value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if inference not in INFERENCES:
            raise unknown_option("inference", inference, INFERENCES)
        if inference == "pyro" and covariance not in ("diagonal", "spherical"):
            raise ValueError(
                f"`inference` must be natural or memoized for {covariance} covariance, got 'pyro'. "
                "The Pyro model knows diagonal and spherical covariance."
            )
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
        super().__init__(num_components, embed_dim, covariance, inference, hyper, restarts, chunk_size, seed)
        self.sample_size = max(20_000, 40 * num_components) if sample_size is None else sample_size
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
            num_data: N; counted while the sample is drawn if not given.
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
        if sample is None or num_data is None:
            drawn, seen = draw_sample(batches, -(-self.sample_size // get_world_size()), self._make_generator())
            sample = gather_rows(drawn) if sample is None else sample
            num_data = int(reduce_sum(seen, self.data_mean.device))
        self.initialize(sample, num_data)
        self.history = []
        for _ in range(max_epochs):
            shared = fill_up(batches, self.embed_dim, self.data_mean.device)
            estimates = [self.partial_fit(batch, num_data, index) for index, batch in enumerate(shared)]
            self.history.append(float(estimates[-1] if self.inference == "memoized" else torch.stack(estimates).mean()))
            moves = self.adapt(sample) if adapt else self._finish_lap()
            if not moves and len(self.history) > 1 and self.history[-1] - self.history[-2] < tolerance:
                break
        return self

    def extra_repr(self) -> str:
        """Show the arguments that shape the state."""
        return f"{self.num_components}, {self.embed_dim}, covariance={self.covariance!r}, inference={self.inference!r}"
