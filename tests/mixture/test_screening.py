# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The screened expectation step and scores against the dense ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from monai_dpmm_ad.mixture import DirichletProcessMixture, screening
from monai_dpmm_ad.mixture.expectation import label_rows, measure_group_entropy, run_local_step
from monai_dpmm_ad.mixture.families.base import Coefficients
from monai_dpmm_ad.mixture.screening import MARGIN, find_candidates, make_screen, take_largest
from monai_dpmm_ad.mixture.variational import reduce_log_prob

LINEAR = ["spherical", "diagonal", "rotated", "vmf"]


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def precision(request, monkeypatch):
    """Both kinds of processor: bfloat16 is slow without hardware for it, but not wrong."""
    monkeypatch.setattr(screening, "supports_bfloat16", lambda device: request.param)
    return request.param


@pytest.fixture
def always(monkeypatch):
    """Screen small mixtures too."""
    for module in ("expectation.LEAST_SIZE_FIT", "posterior.LEAST_SIZE_SCORE"):
        monkeypatch.setattr(f"monai_dpmm_ad.mixture.{module}", 0)


def make_mixture(covariance, make_directions, spread=0.15, dim=24):
    x = make_directions(600, dim, 30, spread=spread)
    return DirichletProcessMixture(40, dim, covariance).fit(x.split(200), max_epochs=2, adapt=False), x


@pytest.mark.parametrize("covariance", LINEAR)
@pytest.mark.parametrize("spread", [0.1, 0.6])
def test_screened_step_agrees_with_the_dense_one(covariance, spread, precision, always, make_directions):
    mixture, x = make_mixture(covariance, make_directions, spread)
    dense = run_local_step(mixture.prior, mixture.factors, x, 256)
    found = run_local_step(mixture.prior, mixture.factors, x, 256, screened=True)
    for name, exact in dense.statistics._asdict().items():
        atol = 2e-2 if name == "entropy" else 1e-3  # a difference of sums of float32 log densities
        torch.testing.assert_close(getattr(found.statistics, name), exact, rtol=1e-4, atol=atol)
    assert float(found.evidence - dense.evidence) == pytest.approx(0.0, abs=1e-4 * len(x))


@pytest.mark.parametrize("covariance", LINEAR)
@pytest.mark.parametrize("score", ["log_prob", "mahalanobis_distance"])
def test_screened_scores_are_the_dense_ones_also_far_from_the_data(
    covariance, score, precision, always, make_directions
):
    mixture, x = make_mixture(covariance, make_directions)
    rows = torch.cat([x, -x[:50], make_directions(200, 24, 200, seed=5)])
    posterior = mixture.posterior
    assert posterior.screen is not None
    dense = dataclasses.replace(posterior, screen=None)
    torch.testing.assert_close(getattr(posterior, score)(rows), getattr(dense, score)(rows), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_coarse_error_is_within_its_bound(scale, seed, precision):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(500, 96, generator=generator) * torch.logspace(-2, 2, 96)
    weight = scale * torch.randn(96, 40, generator=generator) * torch.logspace(2, -2, 96)[:, None]
    screen = make_screen(Coefficients(weight, torch.randn(40, generator=generator)), 0)
    coarse = (features.to(screen.coarse.dtype) @ screen.coarse).double()
    centred = weight - weight.mean(1, keepdim=True)
    error = (coarse - features.double() @ centred.double()).abs().amax(1)
    bound = screen.error * (features * screen.scaling).norm(dim=1)
    rounding = 1e-6 * (features.abs() @ centred.abs()).amax(1)
    assert (error <= bound + rounding).all()
    assert not precision or (error > 0.01 * bound).any()  # a bound that is never near says nothing


def test_no_component_within_the_margin_is_lost(precision, make_directions):
    mixture, x = make_mixture("diagonal", make_directions, spread=0.4, dim=6)
    coefficients = mixture.factors.coefficients.to(torch.float32)
    features = mixture.prior.family.make_features(x, mixture.prior.scale.to(torch.float32))
    found = find_candidates(make_screen(coefficients, 0), features, MARGIN)
    exact = features @ coefficients.weight + coefficients.offset
    assert 0 < int(found.complete.sum()) < len(x)
    near = exact > exact.amax(1, keepdim=True) - MARGIN
    listed = torch.zeros_like(near).scatter_(1, found.component, found.log_prob > -torch.inf)
    assert not (near & ~listed)[found.complete].any()
    kept = found.log_prob > -torch.inf
    torch.testing.assert_close(found.log_prob[kept], exact.gather(1, found.component)[kept], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("num_columns", [7, 64, 65, 500])
def test_largest_values_are_those_of_topk(num_columns):
    values = 100.0 * torch.randn(200, num_columns, generator=torch.Generator().manual_seed(0))
    expected = values.topk(6, dim=1)
    found, places, rounding = take_largest(values.clone(), 6, torch.full((200, 1), torch.inf))
    torch.testing.assert_close(found, expected.values, rtol=rounding, atol=0.0)
    torch.testing.assert_close(values.gather(1, places), expected.values, rtol=rounding, atol=0.0)


def test_search_for_the_largest_ends_where_all_others_are_further_behind():
    values = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    values[:, 3] += 100.0
    values[7, [4, 5]] += 95.0
    found, places, _ = take_largest(values.clone(), 6, torch.full((50, 1), 20.0))
    assert found.shape == places.shape == (50, 4)  # the fourth of row 7 is the first that is far behind
    assert set(places[7, :3].tolist()) == {3, 4, 5}


def test_a_bad_row_is_refused_by_the_screened_step(always, make_directions):
    mixture, x = make_mixture("diagonal", make_directions)
    before = mixture.statistic_sums.clone()
    for value in (float("nan"), float("inf"), 1e30):
        bad = x.clone()
        bad[37, 2] = value
        with pytest.raises(ValueError, match="in row 37"):
            mixture.partial_fit(bad)
    assert torch.equal(mixture.statistic_sums, before)


def test_dense_where_screening_does_not_pay_or_cannot_be():
    coefficients = Coefficients(torch.zeros(8, 40), torch.zeros(40))
    assert make_screen(coefficients, 0) is not None
    assert make_screen(coefficients, 321) is None
    assert make_screen(coefficients.to(torch.float64), 0) is None
    assert make_screen(Coefficients(torch.zeros(8, 6), torch.zeros(6)), 0) is None
    assert make_screen(object(), 0) is None


def test_tracing_takes_the_dense_way(always, make_directions):
    mixture, x = make_mixture("diagonal", make_directions)
    posterior = mixture.posterior
    traced = torch.jit.trace(posterior.log_prob, x[:10])
    torch.testing.assert_close(traced(x[300:310]), posterior.log_prob(x[300:310]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("covariance", LINEAR)
@pytest.mark.parametrize("spread", [0.1, 0.6])
def test_screened_entropies_are_the_dense_ones_and_labels_hardly_less_likely(
    covariance, spread, precision, always, make_directions
):
    mixture, x = make_mixture(covariance, make_directions, spread)
    groups = torch.rand(12, 40, generator=torch.Generator().manual_seed(0)) < 0.2
    found = measure_group_entropy(mixture.prior, mixture.factors, x, 256, groups)
    expected = run_local_step(mixture.prior, mixture.factors, x, 256, groups).group_entropy
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-2)
    labels = label_rows(mixture.prior, mixture.factors, x, 256)
    log_prob = reduce_log_prob(mixture.prior, mixture.factors, x, 256, lambda rows: rows.amax(1))
    one_hot = torch.nn.functional.one_hot(labels, 40).bool()
    chosen = reduce_log_prob(
        mixture.prior, mixture.factors, x, 600, lambda rows: rows.masked_fill(~one_hot, -torch.inf).amax(1)
    )
    torch.testing.assert_close(chosen, log_prob, rtol=0.01, atol=0.2)  # nats
