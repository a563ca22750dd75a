# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Component families: densities, statistics and divergences against slow oracles and each other."""

from __future__ import annotations

import math

import pytest
import torch
from reference.mixture_gaussian import compute_expected_log_prob, compute_statistics
from torch.distributions import Gamma, Normal, kl_divergence

from monai_dpmm_ad.mixture.families import COVARIANCES, make_family
from monai_dpmm_ad.mixture.families.base import DataScale
from monai_dpmm_ad.mixture.families.bessel import compute_bessel_ratio
from monai_dpmm_ad.mixture.families.vmf import invert_resultant
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.initialise import compute_data_scale
from monai_dpmm_ad.mixture.statistics import Statistics

NUM, DIM, K = 60, 4, 3


@pytest.fixture
def data() -> torch.Tensor:
    """Unit vectors (60, 4), float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM, DIM, generator=generator, dtype=torch.float64) + 1.0
    return torch.nn.functional.normalize(x, dim=1)


@pytest.fixture
def resp() -> torch.Tensor:
    """Responsibilities (60, 3)."""
    return torch.randn(NUM, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)


def write(family, scale, x):
    features = x.new_empty(x.shape[0], family.num_written)
    family.write_features(x, scale, features)
    return features


def fit(covariance, x, resp, **options):
    """A family with its factors after one update: family, scale, statistics, params."""
    family = make_family(covariance, x.shape[1], Hyperparameters(top_components=resp.shape[1], **options))
    scale = compute_data_scale(x)
    sums = resp.new_zeros(resp.shape[1], family.num_features)
    family.sum_features(resp, write(family, scale, x), sums)
    counts = resp.sum(0)
    statistics = Statistics(counts, sums, torch.zeros_like(counts), counts.sum())
    return family, scale, statistics, family.build_posterior(scale, counts, sums)


def test_diagonal_agrees_with_nkd_oracle(data, resp):
    family, scale, statistics, params = fit("diagonal", data, resp)
    y = data - scale.mean
    counts, second, first = compute_statistics(y, resp)
    torch.testing.assert_close(statistics.counts, counts)
    torch.testing.assert_close(statistics.sums, torch.cat([second, first], dim=1))
    noise = family.hyper.variance_floor * scale.variance
    found = family.compute_log_prob(write(family, scale, data), family.compute_expected_coefficients(scale, params))
    torch.testing.assert_close(found, compute_expected_log_prob(y, *params, noise))


def test_spherical_is_diagonal_where_precisions_are_equal(data, resp):
    family, scale, _, params = fit("spherical", data, resp)
    equal = params.rate.expand(-1, DIM)
    noise = family.hyper.variance_floor * scale.variance
    expected = compute_expected_log_prob(data - scale.mean, params.mean, params.kappa, params.shape, equal, noise)
    found = family.compute_log_prob(write(family, scale, data), family.compute_expected_coefficients(scale, params))
    torch.testing.assert_close(found, expected)


def test_all_gaussians_agree_in_one_dimension(resp):
    x = torch.randn(NUM, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results = []
    for covariance in ("spherical", "diagonal", "full"):
        family, scale, _, params = fit(covariance, x, resp)
        features = write(family, scale, x)
        expected = family.compute_log_prob(features, family.compute_expected_coefficients(scale, params))
        predictive = family.compute_log_prob(features, family.compute_predictive_coefficients(scale, params))
        mode = family.compute_mode_log_density(scale, params)
        results.append([expected, predictive, family.compute_kl(scale, params), mode])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_normal_gamma_kl_agrees_with_torch(data, resp):
    torch.manual_seed(0)
    family, scale, _, params = fit("diagonal", data, resp)
    rate = family.prior_rate(scale).expand(K, DIM)
    q, p = (
        Gamma(params.shape[:, None].expand(K, DIM), params.rate),
        Gamma(torch.full_like(rate, family.hyper.precision_shape), rate),
    )
    precision = q.sample((20_000,))
    normal = kl_divergence(
        Normal(params.mean, (params.kappa[:, None] * precision).rsqrt()),
        Normal(torch.zeros(K, DIM).double(), (family.hyper.mean_strength * precision).rsqrt()),
    ).mean(0)
    expected = (kl_divergence(q, p) + normal).sum(1)
    torch.testing.assert_close(family.compute_kl(scale, params), expected, rtol=0.01, atol=0.05)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_kl_is_zero_without_data_and_positive_with(covariance, data, resp):
    family, scale, statistics, params = fit(covariance, data, resp)
    assert (family.compute_kl(scale, params) > 0.0).all()
    empty = family.build_posterior(scale, torch.zeros(K).double(), torch.zeros_like(statistics.sums))
    torch.testing.assert_close(family.compute_kl(scale, empty), torch.zeros(K).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_posterior_maximises_the_bound(covariance, data, resp):
    """Statistics of other responsibilities make factors that explain these data less well."""
    family, scale, statistics, params = fit(covariance, data, resp)

    def bound(factors):
        coefficients = family.compute_expected_coefficients(scale, factors)
        return (family.compute_likelihood(statistics, coefficients) - family.compute_kl(scale, factors)).sum()

    best = bound(params)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        jitter = 1.0 + 0.1 * torch.rand(K, 1, generator=generator, dtype=torch.float64)
        other = family.build_posterior(scale, statistics.counts * jitter[:, 0], statistics.sums * jitter.square())
        assert bound(other) < best


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_likelihood_from_statistics_is_that_of_the_data(covariance, data, resp):
    family, scale, statistics, params = fit(covariance, data, resp)
    coefficients = family.compute_expected_coefficients(scale, params)
    expected = (resp * family.compute_log_prob(write(family, scale, data), coefficients)).sum(0)
    torch.testing.assert_close(family.compute_likelihood(statistics, coefficients), expected)
    cross = family.compute_cross_likelihood(statistics.sums / statistics.counts[:, None], coefficients)
    torch.testing.assert_close(statistics.counts * cross.diagonal(), expected)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_labels_are_hard_responsibilities(covariance, data):
    labels = torch.arange(NUM) % K
    hard = torch.nn.functional.one_hot(labels, K).double()
    family, scale, statistics, _ = fit(covariance, data, hard)
    sums = torch.zeros_like(statistics.sums)
    family.collect_features(labels, write(family, scale, data), sums)
    torch.testing.assert_close(sums, statistics.sums)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "full"])
def test_gaussian_predictive_is_normalised(covariance, resp):
    x = torch.randn(NUM, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    family, scale, _, params = fit(covariance, x, resp)
    grid = torch.linspace(-20, 20, 20_001, dtype=torch.float64)[:, None]
    log_prob = family.compute_log_prob(
        write(family, scale, grid), family.compute_predictive_coefficients(scale, params)
    )
    torch.testing.assert_close(log_prob.exp().sum(0) * 40 / 20_000, torch.ones(K).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(log_prob.amax(0), family.compute_mode_log_density(scale, params), rtol=1e-3, atol=1e-4)


def test_vmf_predictive_is_normalised(resp):
    angle = torch.linspace(0, 2 * math.pi, 4_001, dtype=torch.float64)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    x = torch.nn.functional.normalize(torch.randn(NUM, 2).double() + 2.0, dim=1)
    family, scale, _, params = fit("vmf", x, resp)
    log_prob = family.compute_log_prob(circle, family.compute_predictive_coefficients(scale, params))
    torch.testing.assert_close(log_prob.exp().sum(0) * 2 * math.pi / 4_000, torch.ones(K).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(log_prob.amax(0), family.compute_mode_log_density(scale, params), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3, 30, 384])
def test_resultant_is_inverted(dim):
    resultant = torch.tensor([0.01, 0.3, 0.7, 0.95, 0.999], dtype=torch.float64)
    found = compute_bessel_ratio(dim / 2 - 1, invert_resultant(dim, resultant))
    torch.testing.assert_close(found, resultant, rtol=1e-5, atol=1e-8)


def test_full_keeps_only_the_top_components(data, resp):
    family = make_family("full", DIM, Hyperparameters(top_components=2))
    _, scale, _, params = fit("full", data, resp)
    coefficients = family.compute_expected_coefficients(scale, params)
    sparse = family.compute_log_prob(write(family, scale, data), coefficients)
    assert (torch.isfinite(sparse).sum(1) == 2).all()
    family = make_family("full", DIM, Hyperparameters(top_components=10))
    dense = family.compute_log_prob(write(family, scale, data), coefficients)
    assert torch.isfinite(dense).all()
    kept = torch.isfinite(sparse)
    torch.testing.assert_close(sparse[kept], dense[kept])


def test_full_agrees_with_a_multivariate_normal(data, resp):
    family, scale, _, params = fit("full", data, resp)
    precision = family.get_precisions(scale, params)
    found = family.compute_log_prob(write(family, scale, data), family.compute_predictive_coefficients(scale, params))
    for k in range(K):
        normal = torch.distributions.MultivariateNormal(params.mean[k] + scale.mean, precision_matrix=precision[k])
        torch.testing.assert_close(found[:, k], normal.log_prob(data))


def test_floor_keeps_a_width_on_duplicates():
    x = torch.ones(50, DIM, dtype=torch.float64) / 2.0
    for covariance in COVARIANCES:
        _, _, _, params = fit(covariance, x, torch.ones(50, 1).double())
        assert all(torch.isfinite(p).all() for p in params)


def test_data_scale_of_constant_data_is_positive():
    scale = compute_data_scale(torch.zeros(5, 3))
    assert isinstance(scale, DataScale)
    assert (scale.variance > 0.0).all()
