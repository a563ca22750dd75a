# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The module: what it accepts, scores, saves and refuses."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch

from monai_dpmm_ad.errors import CheckpointError, NotFittedError
from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.families import COVARIANCES

SCORES = ["log_prob", "responsibilities", "cosine_distance", "euclidean_distance", "mahalanobis_distance"]


@pytest.fixture(params=COVARIANCES)
def fitted(request, make_directions):
    """A fitted mixture of each family, and its data (300, 6)."""
    x = make_directions(300, 6, 4)
    return DirichletProcessMixture(10, 6, request.param).fit(x.split(100), max_epochs=2), x


# State ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_state_dict_round_trip_gives_the_same_scores(fitted, score):
    mixture, x = fitted
    other = DirichletProcessMixture(10, 6, mixture.covariance)
    other.load_state_dict(mixture.state_dict(), strict=True)
    assert torch.equal(getattr(other, score)(x), getattr(mixture, score)(x))


def test_state_dict_holds_hyperparameters_and_the_fit_goes_on(make_clusters):
    x = make_clusters(300, 4, 3)
    mixture = DirichletProcessMixture(5, 4, alpha_prior=(3.0, 0.5), variance_fraction=0.1, forgetting=0.9)
    mixture.initialize(x).partial_fit(x[:100])
    other = DirichletProcessMixture(5, 4)
    other.load_state_dict(mixture.state_dict())
    for m in (mixture, other):
        m.partial_fit(x[100:])
    for a, b in zip(mixture.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_shapes_of_the_state_do_not_depend_on_the_fit(covariance, make_directions):
    x = make_directions(100, 6, 4)
    fresh = DirichletProcessMixture(10, 6, covariance)
    shapes = {name: (value.shape, value.dtype) for name, value in fresh.state_dict().items()}
    fresh.fit(x.split(50), max_epochs=2)
    assert {name: (value.shape, value.dtype) for name, value in fresh.state_dict().items()} == shapes


def test_unfitted_state_loads_and_stays_unfitted(make_clusters):
    mixture = DirichletProcessMixture(5, 4).fit(make_clusters(100, 4, 3).split(50))
    mixture.load_state_dict(DirichletProcessMixture(5, 4).state_dict())
    with pytest.raises(NotFittedError, match="has not been fitted"):
        mixture.log_prob(torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("num_components", "embed_dim", "covariance"), [(6, 4, "diagonal"), (5, 3, "diagonal"), (5, 4, "full")]
)
def test_state_of_another_size_is_refused(num_components, embed_dim, covariance):
    state = DirichletProcessMixture(num_components, embed_dim, covariance).state_dict()
    with pytest.raises(
        CheckpointError, match=r"must have shape .* for 5 components, 4 dimensions and diagonal covariance"
    ):
        DirichletProcessMixture(5, 4).load_state_dict(state)


def test_missing_state_is_refused():
    state = DirichletProcessMixture(5, 4).state_dict()
    del state["statistic_sums"]
    with pytest.raises(RuntimeError, match="statistic_sums"):
        DirichletProcessMixture(5, 4).load_state_dict(state)


def test_state_is_loaded_within_another_module(make_clusters):
    x = make_clusters(100, 4, 3)
    network = torch.nn.Sequential(DirichletProcessMixture(5, 4).fit(x.split(50)))
    other = torch.nn.Sequential(DirichletProcessMixture(5, 4))
    other.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(other[0].log_prob(x), network[0].log_prob(x))


def test_half_precision_of_the_network_leaves_the_state_alone(fitted):
    mixture, x = fitted
    before = mixture.log_prob(x)
    assert torch.equal(mixture.half().log_prob(x), before)
    assert mixture.statistic_sums.dtype == torch.float64


def test_autocast_does_not_touch_scores(fitted):
    mixture, x = fitted
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mixture.log_prob(x), mixture.log_prob(x.clone()))
        inside = mixture.log_prob(x)
    assert torch.equal(inside, mixture.log_prob(x))


def test_copies_and_pickles_score_alike(fitted):
    mixture, x = fitted
    for other in (copy.deepcopy(mixture), pickle.loads(pickle.dumps(mixture))):
        assert torch.equal(other.log_prob(x), mixture.log_prob(x))


# Scores --------------------------------------------------------------------------------------------------------------


def test_responsibilities_sum_to_one_over_all_components(fitted):
    mixture, x = fitted
    resp = mixture.responsibilities(x)
    assert resp.shape == (300, 10)
    torch.testing.assert_close(resp.sum(1), torch.ones(300))


def test_log_prob_is_below_its_bound(fitted):
    mixture, x = fitted
    candidates = torch.cat([x, torch.nn.functional.normalize(mixture.posterior.means, dim=1)])
    assert (mixture.log_prob_bound() - mixture.log_prob(candidates) >= -1e-4).all()


@pytest.mark.parametrize("score", ["cosine_distance", "euclidean_distance", "mahalanobis_distance"])
def test_distances_are_small_at_centres_and_larger_far_away(fitted, score):
    mixture, x = fitted
    compute = getattr(mixture, score)
    at_centres = compute(torch.nn.functional.normalize(mixture.posterior.means, dim=1))
    far = compute(-x)
    assert (at_centres >= 0.0).all()
    assert far.mean() > compute(x).mean() > at_centres.mean()


@pytest.mark.parametrize("score", SCORES)
def test_chunks_do_not_change_scores(fitted, score):
    mixture, x = fitted
    other = DirichletProcessMixture(10, 6, mixture.covariance, chunk_size=7)
    other.load_state_dict(mixture.state_dict())
    torch.testing.assert_close(getattr(other, score)(x), getattr(mixture, score)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_no_rows_give_no_scores(fitted, score):
    mixture, x = fitted
    assert getattr(mixture, score)(x[:0]).shape[0] == 0


def test_anomalies_score_higher_than_data(make_clusters):
    x = make_clusters(500, 8, 5)
    mixture = DirichletProcessMixture(10, 8).fit(x.split(100))
    assert mixture.log_prob(x + 3.0).max() < mixture.log_prob(x).min()


def test_precisions_and_modes_are_computed_when_they_are_asked_for(fitted):
    mixture, x = fitted
    posterior = mixture.posterior
    mixture.log_prob(x), mixture.cosine_distance(x), mixture.responsibilities(x)
    assert not {"precisions", "mode_log_density"} & set(vars(posterior))
    assert posterior.mode_log_density.shape == (posterior.num_active,)
    assert len(posterior.precisions) == posterior.num_active
    assert posterior.precisions is posterior.precisions


def test_posterior_reports_how_mass_is_spread(fitted):
    mixture, _ = fitted
    posterior = mixture.posterior
    assert posterior.weights.sum().item() == pytest.approx(1.0)
    assert posterior.num_active == len(posterior.means) == len(posterior.active)
    assert 1 <= posterior.count_components(0.5) <= posterior.count_components(0.99) <= posterior.count_components(1.0)
    with pytest.raises(ValueError, match=r"`mass` must be in \(0, 1\], got 0"):
        posterior.count_components(0.0)


@pytest.mark.parametrize("inference", ["natural", "memoized", "pyro"])
def test_a_fit_keeps_no_batch(inference, make_clusters):
    """Streaming: whatever the number of batches, no more than two are alive when the next one is read."""
    x = make_clusters(2000, 4, 3)
    alive = []

    class Stream:
        def __iter__(self):
            given = weakref.WeakSet()
            for rows in x.split(100):
                alive.append(len(given))
                batch = rows.clone()
                given.add(batch)
                yield batch
                del batch

    mixture = DirichletProcessMixture(6, 4, inference=inference, sample_size=150).fit(Stream(), max_epochs=2)
    assert float(mixture.statistic_size) == 2000
    assert len(alive) >= 2 * 20
    assert max(alive) <= 2


def test_same_seed_same_fit(make_clusters):
    x = make_clusters(300, 4, 3)
    a, b = (DirichletProcessMixture(6, 4, seed=7).fit(x.split(100)).log_prob(x) for _ in range(2))
    assert torch.equal(a, b)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", ["natural", "pyro", "memoized"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_values_that_are_not_finite_are_named_and_change_nothing(inference, value, make_clusters):
    x = make_clusters(100, 4, 3)
    mixture = DirichletProcessMixture(5, 4, inference=inference).initialize(x)
    before = {name: tensor.clone() for name, tensor in mixture.state_dict().items()}
    bad = x.clone()
    bad[37, 2] = value
    with pytest.raises(ValueError, match=r"must be finite, got .* in row 37"):
        mixture.partial_fit(bad, index=0)
    with pytest.raises(ValueError, match="in row 37"):
        DirichletProcessMixture(5, 4).initialize(bad)
    for name, tensor in mixture.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("method", [*SCORES, "partial_fit", "elbo", "initialize"])
def test_another_dimension_is_refused(method, make_clusters):
    mixture = DirichletProcessMixture(5, 4).initialize(make_clusters(100, 4, 3))
    with pytest.raises(ValueError, match=r"must have shape \(n, 4\), got \(3, 5\)"):
        getattr(mixture, method)(torch.zeros(3, 5))
    with pytest.raises(TypeError, match=r"must be a floating tensor, got a tensor of torch\.int64"):
        getattr(mixture, method)(torch.zeros(3, 4, dtype=torch.long))


@pytest.mark.parametrize("method", [*SCORES, "partial_fit", "elbo"])
def test_nothing_works_before_a_fit(method):
    with pytest.raises(NotFittedError, match="Call `fit`"):
        getattr(DirichletProcessMixture(5, 4), method)(torch.zeros(3, 4))


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_vmf_refuses_vectors_that_are_not_unit(scale, make_directions):
    x = make_directions(100, 4, 3)
    mixture = DirichletProcessMixture(5, 4, "vmf").initialize(x)
    bad = x.clone()
    bad[5] *= scale
    for method in ("partial_fit", "log_prob", "initialize"):
        with pytest.raises(ValueError, match=r"must be unit vectors .* in row 5"):
            getattr(mixture, method)(bad)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_fewer_points_than_components_works(covariance, make_directions):
    x = make_directions(7, 6, 4)
    mixture = DirichletProcessMixture(20, 6, covariance).fit([x])
    assert torch.isfinite(mixture.log_prob(x)).all()


@pytest.mark.parametrize("inference", ["natural", "pyro", "memoized"])
def test_a_batch_of_one_works(inference, make_clusters):
    x = make_clusters(20, 4, 3)
    mixture = DirichletProcessMixture(5, 4, inference=inference).fit(x.split(1), max_epochs=2)
    assert torch.isfinite(mixture.log_prob(x)).all()
    assert torch.isfinite(DirichletProcessMixture(3, 4).fit([x[:1]]).log_prob(x)).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("inference", ["natural", "memoized"])
def test_duplicates_only_give_no_nan(covariance, inference):
    x = torch.full((100, 4), 0.5)
    mixture = DirichletProcessMixture(5, 4, covariance, inference).fit(x.split(25))
    assert torch.isfinite(mixture.log_prob(x)).all()
    assert torch.isfinite(mixture.elbo(x))
    assert mixture.log_prob(x).max() > mixture.log_prob(torch.tensor([[1.0, 0.0, 0.0, 0.0]])).max()


@pytest.mark.parametrize("prior", [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_alpha_prior_out_of_range_is_refused(prior):
    with pytest.raises(ValueError, match=r"`alpha_(shape|rate)` must be a positive finite number"):
        DirichletProcessMixture(5, 4, alpha_prior=prior)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'diagonal'"):
        DirichletProcessMixture(5, 4, "diag")
    with pytest.raises(ValueError, match="`inference` must be one of"):
        DirichletProcessMixture(5, 4, inference="gibbs")
    with pytest.raises(ValueError, match="`num_components` must be positive, got 0"):
        DirichletProcessMixture(0, 4)
    with pytest.raises(ValueError, match=r"`forgetting` must be in \(0\.5, 1\], got 0\.5"):
        DirichletProcessMixture(5, 4, forgetting=0.5)
    with pytest.raises(ValueError, match="knows diagonal and rotated and spherical covariance"):
        DirichletProcessMixture(5, 4, "full", "pyro")


def test_batches_that_can_be_read_once_are_refused(make_clusters):
    x = make_clusters(100, 4, 3)
    with pytest.raises(ValueError, match="must be readable more than once"):
        DirichletProcessMixture(5, 4).fit(iter(x.split(50)))
    with pytest.raises(ValueError, match="at least one embedding"):
        DirichletProcessMixture(5, 4).fit([])
    with pytest.raises(ValueError, match="at least one embedding"):
        DirichletProcessMixture(5, 4).fit([x[:0]])
    with pytest.raises(ValueError, match="at least one row"):
        DirichletProcessMixture(5, 4).initialize(x[:0])
