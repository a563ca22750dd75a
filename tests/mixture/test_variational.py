# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The ELBO: one function for all optimisers, and Pyro's estimate of it."""

from __future__ import annotations

import pyro
import pytest
import torch

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.expectation import run_local_step
from monai_dpmm_ad.mixture.families import COVARIANCES
from monai_dpmm_ad.mixture.inference.pyro_model import ExpectedOneHot, compute_pyro_elbo
from monai_dpmm_ad.mixture.variational import compute_elbo


def make_mixture(x: torch.Tensor, covariance: str = "diagonal", **options) -> DirichletProcessMixture:
    return DirichletProcessMixture(8, x.shape[1], covariance, **options).initialize(x)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_elbo_from_statistics_is_that_from_evidence(covariance, make_directions):
    x = make_directions(200, 5, 4).double()
    mixture = make_mixture(x, covariance)
    found = run_local_step(mixture.prior, mixture.factors, x, 50)
    torch.testing.assert_close(compute_elbo(mixture.prior, found.statistics, mixture.factors), mixture.elbo(x))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_local_step_maximises_the_bound(covariance, make_directions):
    """Any other q(z) has a smaller ELBO."""
    x = make_directions(200, 5, 4).double()
    mixture = make_mixture(x, covariance, top_components=8)
    best = mixture.elbo(x)
    assert best > compute_elbo(mixture.prior, mixture.state.statistics, mixture.factors)  # k-means' labels


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_do_not_matter(covariance, chunk_size, make_directions):
    x = make_directions(60, 5, 4).double()
    mixture = make_mixture(x, covariance)
    expected = run_local_step(mixture.prior, mixture.factors, x, 60)
    found = run_local_step(mixture.prior, mixture.factors, x, chunk_size)
    for a, b in zip(found.statistics, expected.statistics, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(found.evidence, expected.evidence)


def test_entropy_is_that_of_responsibilities(make_clusters):
    x = make_clusters(100, 3, 4, spread=1.0).double()
    mixture = make_mixture(x)
    factors, family = mixture.factors, mixture.prior.family
    features = x.new_empty(100, family.num_written)
    family.write_features(x, mixture.prior.scale, features)
    resp = (family.compute_log_prob(features, factors.coefficients) + factors.log_weights).softmax(1)
    found = run_local_step(mixture.prior, factors, x, 100).statistics
    torch.testing.assert_close(found.counts, resp.sum(0))
    torch.testing.assert_close(found.entropy, torch.special.entr(resp).sum(0), rtol=1e-6, atol=1e-6)


def test_float32_agrees_with_float64_far_from_the_origin(make_clusters):
    x = make_clusters(500, 8, 4) + 10.0
    mixture = make_mixture(x)
    torch.testing.assert_close(mixture.elbo(x), mixture.elbo(x.double()), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical", "rotated"])
def test_pyro_estimates_the_same_elbo(covariance, make_clusters):
    pyro.set_rng_seed(0)
    x = make_clusters(400, 6, 5).double()
    mixture = DirichletProcessMixture(8, 6, covariance).fit(x.split(100), max_epochs=2)
    with torch.no_grad():
        draws = torch.stack([compute_pyro_elbo(mixture.prior, mixture.factors, x, 400.0) for _ in range(200)])
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - mixture.elbo(x)).abs() < 4.0 * error
    assert error < 0.01 * 400  # nats per datum


def test_pyro_scales_a_batch_to_the_data_set(make_clusters):
    pyro.set_rng_seed(0)
    x = make_clusters(200, 6, 5).double()
    mixture = make_mixture(x)
    with torch.no_grad():
        draws = torch.stack([compute_pyro_elbo(mixture.prior, mixture.factors, x, 5000.0) for _ in range(200)])
    assert (draws.mean() - mixture.elbo(x, num_data=5000)).abs() < 4.0 * draws.std() / len(draws) ** 0.5


def test_expected_one_hot_is_linear_in_its_value():
    log_weights = torch.tensor([[0.2, 0.3, 0.5]]).log()
    variable = ExpectedOneHot(log_weights, 1)
    torch.testing.assert_close(variable.rsample(), log_weights.exp())
    torch.testing.assert_close(variable.log_prob(torch.tensor([[0.0, 1.0, 0.0]])), torch.tensor([0.3]).log())
