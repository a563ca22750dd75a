# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Arguments and data at the edge: a clear error, or the right value."""

from __future__ import annotations

import math

import pytest
import torch

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.families import COVARIANCES

SCORES = ["log_prob", "cosine_distance", "euclidean_distance", "mahalanobis_distance"]


def test_the_size_of_the_data_set_is_taken_as_given_also_without_a_sample(make_clusters):
    mixture = DirichletProcessMixture(5, 4).fit(make_clusters(200, 4, 3).split(50), num_data=5000, max_epochs=1)
    assert float(mixture.statistic_size) == 5000.0
    assert float(mixture.statistic_counts.sum()) == pytest.approx(5000.0)


@pytest.mark.parametrize("num_data", [0, -5, math.nan, math.inf])
@pytest.mark.parametrize("method", ["fit", "initialize", "partial_fit", "elbo"])
def test_a_size_that_is_none_is_refused_and_changes_nothing(method, num_data, make_clusters):
    x = make_clusters(100, 4, 3)
    mixture = DirichletProcessMixture(5, 4).initialize(x)
    before = {name: tensor.clone() for name, tensor in mixture.state_dict().items()}
    with pytest.raises(ValueError, match=r"`num_data` must be a positive number, got"):
        getattr(mixture, method)([x] if method == "fit" else x, num_data=num_data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mixture.state_dict().items())


@pytest.mark.parametrize("name", ["sample_size", "chunk_size", "embed_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be positive, got {value}"):
        DirichletProcessMixture(**{"num_components": 5, "embed_dim": 4, name: value})


def test_a_first_batch_does_not_start_a_fit(make_clusters):
    with pytest.raises(NotFittedError, match="Call `fit`, or `initialize`"):
        DirichletProcessMixture(5, 4).partial_fit(make_clusters(100, 4, 3))


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "rotated", "full"])
def test_one_row_far_away_does_not_ruin_a_fit(covariance, make_clusters):
    x, held_out = make_clusters(2000, 4, 5), make_clusters(1000, 4, 5, seed=0)[500:]
    expected = DirichletProcessMixture(12, 4, covariance).fit(x.split(500)).log_prob(held_out).mean()
    bad = x.clone()
    bad[37] = 1e4
    mixture = DirichletProcessMixture(12, 4, covariance).fit(bad.split(500))
    assert mixture.posterior.count_components(0.99) >= 5
    assert float(mixture.log_prob(held_out).mean()) == pytest.approx(float(expected), abs=0.1)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "rotated", "full"])
def test_an_offset_of_many_standard_deviations_changes_nothing_but_digits(covariance, make_clusters):
    x = make_clusters(1000, 4, 5)
    expected = DirichletProcessMixture(8, 4, covariance).fit([x]).log_prob(x).mean()
    moved = x + 1e5 * float(x.std())
    mixture = DirichletProcessMixture(8, 4, covariance).fit([moved])
    assert float(mixture.log_prob(moved).mean()) == pytest.approx(float(expected), abs=0.3)


def test_an_offset_that_float32_cannot_resolve_is_refused(make_clusters):
    with pytest.raises(ValueError, match=r"must differ by more than float32 resolves.*Subtract their mean"):
        DirichletProcessMixture(8, 4).initialize(make_clusters(1000, 4, 5) + 1e7)


@pytest.mark.parametrize("covariance", [name for name in COVARIANCES if name != "vmf"])
@pytest.mark.parametrize("score", SCORES)
def test_a_score_of_whatever_is_finite_is_finite_and_far(covariance, score, make_clusters):
    x = make_clusters(300, 4, 3)
    mixture = DirichletProcessMixture(5, 4, covariance).initialize(x)
    compute = getattr(mixture, score)
    normal = compute(x)
    for value in (1e15, 1e20, 3e38):
        found = compute(torch.tensor([[value, 0.0, 0.0, -value]]))
        assert torch.isfinite(found).all()
        if score == "log_prob":
            assert found < normal.min()
        if score in ("euclidean_distance", "mahalanobis_distance"):
            assert found > normal.max()
    for value in (math.nan, math.inf):
        assert torch.isnan(compute(torch.tensor([[value, 0.0, 0.0, 0.0]]))).all()
