# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Every path on a GPU: the same results as on the CPU, and nothing that waits inside a step."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.families import COVARIANCES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PATHS = [(covariance, inference) for covariance in COVARIANCES for inference in ("natural", "memoized")]
SCORES = ["log_prob", "responsibilities", "cosine_distance", "euclidean_distance", "mahalanobis_distance"]


@pytest.fixture
def forbid_waiting():
    """A switch that turns every wait for the device into an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("covariance", "inference"), PATHS)
@pytest.mark.parametrize("adapt", [True, False])
def test_the_fit_is_that_of_the_cpu(covariance, inference, adapt, make_directions):
    x = make_directions(300, 6, 4)
    fits = [
        DirichletProcessMixture(10, 6, covariance, inference)
        .to(device)
        .fit(x.to(device).split(100), sample=x.to(device), max_epochs=2, adapt=adapt)
        for device in ("cpu", "cuda")
    ]
    assert fits[1].statistic_sums.device.type == "cuda"
    torch.testing.assert_close(fits[1].log_prob(x.cuda()).cpu(), fits[0].log_prob(x), rtol=1e-3, atol=5e-2)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical", "rotated"])
def test_pyro_fits_there_too(covariance, make_clusters):
    x = make_clusters(300, 6, 4).cuda()
    mixture = DirichletProcessMixture(10, 6, covariance, "pyro").cuda()
    before = float(mixture.initialize(x).elbo(x))
    for _ in range(30):
        mixture.partial_fit(x)
    assert float(mixture.elbo(x)) > before


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_an_update_opens_components_there_too(covariance, make_directions):
    old, new = make_directions(300, 6, 4), make_directions(300, 6, 4, seed=5)
    scores = []
    for device in ("cpu", "cuda"):
        mixture = DirichletProcessMixture(5, 6, covariance).to(device).initialize(old.to(device))
        mixture.start_update()
        mixture.partial_fit(new.to(device), len(new))
        assert mixture.adapt(new.to(device)) > 0
        scores.append(mixture.log_prob(new.to(device)).cpu())
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("score", [*SCORES, "elbo"])
def test_a_state_moved_there_gives_the_same_scores(covariance, score, make_directions):
    x = make_directions(300, 6, 4)
    mixture = DirichletProcessMixture(10, 6, covariance).fit(x.split(100), max_epochs=2)
    expected = getattr(mixture, score)(x)
    found = getattr(mixture.cuda(), score)(x.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-2)
    back = getattr(mixture.cpu(), score)(x)
    torch.testing.assert_close(back, expected)


def test_many_components_give_the_scores_of_the_cpu_where_those_are_screened(make_directions):
    x = make_directions(2000, 256, 40)
    mixture = DirichletProcessMixture(600, 256).initialize(x)
    assert mixture.posterior.screen is not None
    for score in ("log_prob", "mahalanobis_distance"):
        expected = getattr(mixture.cpu(), score)(x)
        mixture.cuda()
        assert mixture.posterior.screen is None
        torch.testing.assert_close(getattr(mixture, score)(x.cuda()).cpu(), expected, rtol=1e-3, atol=5e-2)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "rotated", "vmf"])
@pytest.mark.parametrize("inference", ["natural", "memoized"])
def test_nothing_waits_inside_a_step(covariance, inference, forbid_waiting, make_directions):
    x = make_directions(300, 6, 4).cuda()
    mixture = DirichletProcessMixture(10, 6, covariance, inference).cuda().initialize(x)
    batches = x.split(100)
    for index, batch in enumerate(batches):  # the first lap may load kernels
        mixture.partial_fit(batch, index=index)
    forbid_waiting()
    for index, batch in enumerate(batches):
        mixture.partial_fit(batch, index=index)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "rotated", "vmf"])
def test_nothing_waits_inside_a_score(covariance, forbid_waiting, make_directions):
    x = make_directions(300, 6, 4).cuda()
    mixture = DirichletProcessMixture(10, 6, covariance).cuda().fit(x.split(100), max_epochs=1)
    for score in SCORES:  # builds the posterior
        getattr(mixture, score)(x)
    forbid_waiting()
    for score in [name for name in SCORES if name != "responsibilities"]:  # which indexes by a list
        getattr(mixture, score)(x)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_bad_batch_changes_nothing_and_its_elbo_is_nan(covariance, make_directions):
    x = make_directions(300, 6, 4).cuda()
    mixture = DirichletProcessMixture(10, 6, covariance).cuda().initialize(x)
    before = mixture.statistic_sums.clone()
    bad = x.clone()
    bad[37, 2] = float("nan")
    assert torch.isnan(mixture.partial_fit(bad))
    assert torch.equal(mixture.statistic_sums, before)
