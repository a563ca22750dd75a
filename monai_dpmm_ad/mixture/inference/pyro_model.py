# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The mixture as a Pyro model and guide, and their stochastic variational inference: the specification.

The guide has the form that every other factor takes at its optimum: it is a function of pseudo-statistics (share of
the data, centre, spread of each component), which Adam moves. Assignments are never sampled: a one-hot variable is
represented by its expectation, which is exact because the model's log density is linear in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

from monai_dpmm_ad.mixture.families.base import Coefficients
from monai_dpmm_ad.mixture.families.gaussian import FactorisedGaussian
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.inference.base import Batch, Inference
from monai_dpmm_ad.mixture.moves.schedule import MoveSchedule
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.validation import refuse_bad_rows
from monai_dpmm_ad.mixture.variational import Factors, MixtureState, Prior, compute_weighted_log_prob, weigh
from monai_dpmm_ad.utils.distributed import average_gradients

__all__ = ["ExpectedLikelihood", "ExpectedOneHot", "PyroInference", "PyroOptimizer"]
__all__ += ["compute_pyro_elbo", "sample_guide", "sample_model"]

LEAST_SHARE = 1e-12  # of the data, in an empty component: keeps its logit finite
DECAY_STEPS = 100.0  # Adam's rate falls as (1 + t/100)^-1/2: constant rates never settle


class ExpectedOneHot(dist.TorchDistribution):
    """One-hot variables whose value is their expectation: log p(r) = Σ_k r_k log π_k.

    Args:
        log_weights: (K,) or (n, K), log probabilities.
        size: n, the number of variables.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.simplex
    has_rsample = True

    def __init__(self, log_weights: Tensor, size: int) -> None:
        self.log_weights = log_weights.expand(size, -1)
        super().__init__(torch.Size([size]), log_weights.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return the expectation, (n, K)."""
        return self.log_weights.exp().expand(*sample_shape, *self.log_weights.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute Σ_k r_nk log π_k, (n,)."""
        return (value * self.log_weights.clamp(min=torch.finfo(value.dtype).min)).sum(-1)


class ExpectedLikelihood(dist.TorchDistribution):
    """Data whose component is known in expectation: log p(y_n | r_n) = Σ_k r_nk log p(y_n | θ_k).

    Args:
        assignment: (n, K), expected one-hot variables.
        prior: its family computes log p(y | θ).
        coefficients: of the features, for each θ_k.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, assignment: Tensor, prior: Prior, coefficients: Coefficients) -> None:
        self.assignment = assignment
        self.prior = prior
        self.coefficients = coefficients
        super().__init__(assignment.shape[:1], torch.Size([prior.family.embed_dim]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the expected log density of each datum, (n,)."""
        scale = self.prior.scale.to(value.dtype)
        found = compute_weighted_log_prob(self.prior.family, self.coefficients.to(value.dtype), scale, value)
        return (self.assignment * found).sum(-1)


def sample_model(prior: Prior, num_components: int, x: Tensor, num_data: float | Tensor) -> None:
    """Run the generative model on a batch that stands for the data set.

    Args:
        prior: priors and likelihood, Gaussian with diagonal or spherical covariance.
        num_components: K.
        x: (n, D).
        num_data: N.
    """
    family: FactorisedGaussian = prior.family  # type: ignore[assignment]
    variance = family.group(prior.scale.variance)
    alpha = pyro.sample("alpha", dist.Gamma(prior.alpha_shape, prior.alpha_rate))
    v = pyro.sample("v", dist.Beta(torch.ones_like(alpha), alpha).expand([num_components - 1]).to_event(1))
    prior_rate = family.prior_rate(prior.scale).expand(num_components, -1)
    shape = torch.full_like(prior_rate, family.hyper.precision_shape)
    precision = pyro.sample("precision", dist.Gamma(shape, prior_rate).to_event(2))
    spread = (family.hyper.mean_strength * precision).rsqrt().expand(-1, family.embed_dim)
    mean = pyro.sample("mean", dist.Normal(torch.zeros_like(spread), spread).to_event(2))

    one = alpha.new_ones(1)
    log_weights = torch.cat([v, one]).log() + torch.cat([one, 1.0 - v]).log().cumsum(0)
    slack = family.group_size * precision.log().sum(1) - family.hyper.variance_floor * precision @ variance
    coefficients = family.assemble(prior.scale, mean, precision, slack)
    with pyro.poutine.scale(scale=num_data / x.shape[0]):
        z = pyro.sample("z", ExpectedOneHot(log_weights.to(x.dtype), x.shape[0]).to_event(1))
        pyro.sample("y", ExpectedLikelihood(z, prior, coefficients).to_event(1), obs=x)


def sample_guide(prior: Prior, factors: Factors, x: Tensor, num_data: float | Tensor) -> None:
    """Run the guide: the mean-field factors, with q(z) at its optimum.

    Args:
        prior: priors and likelihood.
        factors: the factors.
        x: (n, D).
        num_data: N.
    """
    sticks, params = factors.sticks, factors.params
    pyro.sample("alpha", dist.Gamma(sticks.alpha_shape, sticks.alpha_rate))
    pyro.sample("v", dist.Beta(sticks.first, sticks.second).to_event(1))
    precision = pyro.sample(
        "precision", dist.Gamma(params.shape[:, None].expand_as(params.rate), params.rate).to_event(2)
    )
    spread = (params.kappa[:, None] * precision).rsqrt().expand_as(params.mean)
    pyro.sample("mean", dist.Normal(params.mean, spread).to_event(2))
    with torch.no_grad():  # q(z) is at its optimum: the ELBO has no slope along it
        scale = prior.scale.to(x.dtype)
        log_resp = compute_weighted_log_prob(prior.family, weigh(factors, x.dtype), scale, x).log_softmax(1)
    with pyro.poutine.scale(scale=num_data / x.shape[0]):
        pyro.sample("z", ExpectedOneHot(log_resp, x.shape[0]).to_event(1))


def compute_pyro_elbo(
    prior: Prior, factors: Factors, x: Tensor, num_data: float | Tensor, num_particles: int = 1
) -> Tensor:
    """Compute Pyro's Monte-Carlo estimate of the ELBO of the model and guide above.

    Args:
        prior: priors and likelihood.
        factors: the factors; gradients flow into what they were made from.
        x: (n, D).
        num_data: N, for which the batch stands.
        num_particles: Monte-Carlo draws.

    Returns:
        0-dim, nats.
    """
    num_components = factors.log_weights.shape[0]
    objective = TraceMeanField_ELBO(num_particles=num_particles)
    loss = objective.differentiable_loss(
        lambda: sample_model(prior, num_components, x, num_data),
        lambda: sample_guide(prior, factors, x, num_data),
    )
    return -torch.as_tensor(loss)


class PyroInference(Inference):
    """Gradient SVI: Pyro's ELBO of a batch, differentiated, and Adam."""

    name = "pyro"

    def __init__(self, hyper: Hyperparameters) -> None:
        super().__init__(hyper)
        self._schedule = MoveSchedule()
        self._optimizer: PyroOptimizer | None = None

    def step(self, prior: Prior, state: MixtureState, factors: Factors, batch: Batch) -> tuple[MixtureState, Tensor]:
        """Take a step of Adam along the gradient of Pyro's estimate, which is the ELBO that it returns."""
        refuse_bad_rows(batch.rows, prior.family.unit)
        state, _ = self._schedule.start_pass(prior, state, factors)
        if self._optimizer is None:
            self._optimizer = PyroOptimizer(prior, state, self.hyper.learning_rate)
        moved, elbo = self._optimizer.step(prior, batch.rows, batch.num_data)
        return moved._replace(num_seen=state.num_seen), elbo / batch.num_data

    def finish_epoch(
        self,
        prior: Prior,
        state: MixtureState,
        sample: Tensor | None,
        chunk_size: int,
        generator: torch.Generator,
        limit: int,
    ) -> tuple[MixtureState, int]:
        """Merge and propose splits; Adam's momentum outlives an epoch that changed nothing."""
        moved, accepted = self._schedule.finish_pass(prior, state, self.require(sample), chunk_size, generator, limit)
        if not accepted and not self._schedule.undone:
            return state, 0
        self._optimizer = None
        return moved, accepted


class PyroOptimizer:
    """Gradient SVI: Pyro's ELBO of a batch, differentiated, and Adam on the guide's pseudo-statistics.

    Args:
        prior: priors and likelihood, Gaussian with diagonal or spherical covariance.
        state: where to start.
        learning_rate: Adam's first rate.
    """

    def __init__(self, prior: Prior, state: MixtureState, learning_rate: float) -> None:
        family: FactorisedGaussian = prior.family  # type: ignore[assignment]
        self.family = family
        counts, sums = state.statistics.counts, state.statistics.sums
        variance = family.group(prior.scale.variance)
        mean = sums[:, family.num_groups :] / counts.clamp(min=1.0)[:, None]
        squares = sums[:, : family.num_groups] / counts.clamp(min=1.0)[:, None]
        spread = (squares - family.group(mean.square())).clamp(min=1e-6 * variance)
        spread = torch.where(counts[:, None] >= 1.0, spread, family.hyper.variance_fraction * variance)
        self.unit = prior.scale.variance.sqrt()
        self.unit_variance = variance
        share = (counts / counts.sum()).clamp(min=LEAST_SHARE)
        self.logits = nn.Parameter(share.log())
        self.mean = nn.Parameter(mean / self.unit)
        self.log_spread = nn.Parameter((spread / variance).log())
        self.log_alpha_rate = nn.Parameter(state.alpha_rate.log())
        self.parameters = [self.logits, self.mean, self.log_spread, self.log_alpha_rate]
        self.adam = torch.optim.Adam(self.parameters, lr=learning_rate, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda t: (1.0 + t / DECAY_STEPS) ** -0.5)

    def build_state(self, num_data: Tensor) -> MixtureState:
        """Compute the state that the pseudo-statistics stand for, differentiably."""
        counts = num_data * self.logits.softmax(0)
        mean = self.mean * self.unit
        squares = self.family.group(mean.square()) + self.log_spread.exp() * self.unit_variance
        sums = counts[:, None] * torch.cat([squares, mean], dim=1)
        statistics = Statistics(counts, sums, torch.zeros_like(counts), num_data)
        return MixtureState(statistics, self.log_alpha_rate.exp(), torch.zeros_like(num_data))

    def step(self, prior: Prior, x: Tensor, num_data: Tensor) -> tuple[MixtureState, Tensor]:
        """Take one step.

        Args:
            prior: priors and likelihood.
            x: (n, D), this process's batch.
            num_data: 0-dim float64, N.

        Returns:
            the next state and the ELBO of the present one, nats; under torch.distributed gradients are averaged and
            the ELBO is this process's.
        """
        with torch.enable_grad():
            elbo = compute_pyro_elbo(prior, prior.build(self.build_state(num_data)), x, num_data)
            self.adam.zero_grad()
            (-elbo / num_data).backward()
        average_gradients(self.parameters)
        self.adam.step()
        self.schedule.step()
        with torch.no_grad():
            return self.build_state(num_data), elbo.detach()
