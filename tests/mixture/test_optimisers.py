# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The three optimisers: what each promises, and that they meet."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.families import COVARIANCES
from monai_dpmm_ad.mixture.inference.natural import compute_learning_rate
from monai_dpmm_ad.mixture.variational import compute_elbo


def compute_cached_elbo(mixture: DirichletProcessMixture) -> float:
    """The ELBO of the assignments in the cache, nats per datum."""
    statistics = mixture.state.statistics
    return float(compute_elbo(mixture.prior, statistics, mixture.factors) / statistics.size)


@pytest.mark.parametrize("covariance", COVARIANCES)
@settings(max_examples=5, deadline=None, phases=[Phase.generate], derandomize=True)
@given(seed=st.integers(0, 10_000), num_data=st.integers(5, 80), num_components=st.integers(1, 6))
def test_memoized_elbo_never_falls(covariance, seed, num_data, num_components):
    """On random data, at every step after the first lap, at every merge and reordering."""
    x = torch.randn(num_data, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.nn.functional.normalize(x, dim=1)
    mixture = DirichletProcessMixture(
        num_components, 3, covariance, "memoized", seed=seed, top_components=num_components
    ).initialize(x)
    elbos = []
    for lap in range(4):
        for index, batch in enumerate(x.split(1 + num_data // 3)):
            mixture.partial_fit(batch, num_data, index)
            elbos.append((lap, compute_cached_elbo(mixture)))
        mixture.adapt()
        elbos.append((lap, compute_cached_elbo(mixture)))
    after_first_lap = [elbo for lap, elbo in elbos if lap > 0]
    for before, after in pairwise(after_first_lap):
        assert after >= before - 1e-7 * max(1.0, abs(before))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_natural_and_memoized_meet(covariance, make_directions):
    x = make_directions(600, 6, 4, spread=0.1).double()
    natural = DirichletProcessMixture(4, 6, covariance, "natural", forgetting=0.9).fit(x.split(100), max_epochs=30)
    memoized = DirichletProcessMixture(4, 6, covariance, "memoized").fit(x.split(100), max_epochs=30)
    assert float(natural.elbo(x)) == pytest.approx(float(memoized.elbo(x)), abs=0.02 * 600)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical", "rotated"])
def test_pyro_comes_close_to_memoized(covariance, make_clusters):
    x = make_clusters(600, 6, 4).double()
    exact = DirichletProcessMixture(4, 6, covariance, "memoized").fit(x.split(100), max_epochs=10)
    pyro = DirichletProcessMixture(4, 6, covariance, "pyro").fit(x.split(100), max_epochs=15, tolerance=-1.0)
    difference = float(exact.elbo(x) - pyro.elbo(x)) / 600
    assert -1e-6 <= difference < 0.1


def test_whole_data_natural_steps_with_rate_one_are_coordinate_ascent(make_clusters):
    """ρ = 1 on the whole data is batch variational Bayes: the ELBO rises."""
    x = make_clusters(300, 5, 6, spread=0.5).double()
    mixture = DirichletProcessMixture(6, 5).initialize(x)
    elbos = []
    for _ in range(10):
        mixture.num_seen.zero_()
        mixture.partial_fit(x)
        elbos.append(float(mixture.elbo(x)))
    assert all(b >= a - 1e-8 for a, b in pairwise(elbos))


def test_natural_steps_raise_the_elbo_over_epochs(make_clusters):
    x = make_clusters(2000, 8, 10, spread=0.8)
    mixture = DirichletProcessMixture(15, 8).fit(x.split(200), max_epochs=5, adapt=False)
    assert mixture.history[-1] > mixture.history[0]


def test_learning_rate_weighs_the_sample_that_came_before():
    size = torch.tensor(100.0)
    rates = [float(compute_learning_rate(torch.tensor(seen), size, 0.6)) for seen in (0.0, 100.0, 900.0)]
    assert rates == pytest.approx([1.0, 2.0**-0.6, 10.0**-0.6])


def test_memoized_refuses_shuffled_batches(make_clusters):
    x = make_clusters(100, 4, 3)

    class Shuffled:
        def __iter__(self):
            return iter(x[torch.randperm(100)].split(20))

    mixture = DirichletProcessMixture(5, 4, inference="memoized")
    with pytest.raises(ValueError, match="must be the same in every epoch for memoized inference"):
        mixture.fit(Shuffled(), max_epochs=3)


def test_memoized_needs_an_index(make_clusters):
    x = make_clusters(100, 4, 3)
    mixture = DirichletProcessMixture(5, 4, inference="memoized").initialize(x)
    with pytest.raises(ValueError, match=r"`index` must say which batch"):
        mixture.partial_fit(x)


def test_memoized_values_are_the_data_s_own_elbo_from_the_end_of_the_first_lap(make_clusters):
    """From a start on a tenth of the data: before that end another sum is returned, which falls."""
    x = make_clusters(400, 6, 8, spread=0.5).double()
    mixture = DirichletProcessMixture(6, 6, inference="memoized").initialize(x[:40], 400)
    laps = [[float(mixture.partial_fit(rows, 400, i)) for i, rows in enumerate(x.split(40))] for _ in range(3)]
    assert min(laps[0]) < laps[0][0] - 0.1
    assert laps[1][-1] == pytest.approx(compute_cached_elbo(mixture), abs=2.0)
    later = [laps[0][-1], *laps[1], *laps[2]]
    assert all(b >= a - 1e-9 for a, b in pairwise(later))
    assert later[-1] == pytest.approx(compute_cached_elbo(mixture))
