# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A truncation that binds is told of, and may grow."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.mixture import DirichletProcessMixture


def test_a_truncation_that_binds_is_reported(make_clusters):
    x = make_clusters(2000, 8, 12)
    few, many = (DirichletProcessMixture(k, 8).fit(x.split(500)).summarise() for k in (6, 30))
    assert few["truncation_binds"] is True
    assert many["truncation_binds"] is False
    assert many["num_active"] < 30


@pytest.mark.parametrize("covariance", ["diagonal", "rotated"])
def test_a_truncation_grows_to_as_many_components_as_there_are_clusters(covariance, make_clusters):
    x, held_out = make_clusters(9000, 8, 24).split([8000, 1000])
    fixed = DirichletProcessMixture(6, 8, covariance).fit(x.split(500))
    grown = DirichletProcessMixture(6, 8, covariance, max_components=200).fit(x.split(500), max_epochs=12)
    assert fixed.num_components == 6
    assert 22 <= grown.num_components <= 28
    assert grown.posterior.num_active == grown.num_components  # none is made that no split fills
    assert fixed.summarise()["truncation_binds"] is True
    assert grown.summarise()["truncation_binds"] is False  # there might have been more
    assert float(grown.log_prob(held_out).mean()) > float(fixed.log_prob(held_out).mean()) + 1.0
    assert grown.responsibilities(held_out).shape == (1000, grown.num_components)


def test_a_grown_state_loads_where_growth_is_allowed(make_clusters):
    x = make_clusters(4000, 6, 16)
    grown = DirichletProcessMixture(4, 6, max_components=64).fit(x.split(500))
    assert grown.num_components > 4
    other = DirichletProcessMixture(4, 6, max_components=64)
    other.load_state_dict(grown.state_dict())
    assert other.num_components == grown.num_components
    assert torch.equal(other.log_prob(x), grown.log_prob(x))
    with pytest.raises(CheckpointError, match="for 4 components"):
        DirichletProcessMixture(4, 6).load_state_dict(grown.state_dict())
    other.load_state_dict(DirichletProcessMixture(4, 6).fit(x.split(500)).state_dict())  # and one that has not grown
    assert other.num_components == 4


@pytest.mark.parametrize(("num_data", "most", "limit"), [(4000, 64, 20), (4000, 10, 10), (600, 64, 4), (4000, None, 4)])
def test_growth_ends_at_its_limit_or_at_one_component_for_200_data(num_data, most, limit, make_clusters):
    x = make_clusters(num_data, 6, 40)
    mixture = DirichletProcessMixture(4, 6, max_components=most).fit(x.split(200), max_epochs=8)
    assert mixture.limit == mixture.num_components == limit
    assert mixture.summarise()["truncation_binds"] is True


def test_splits_that_made_components_are_undone_with_them(make_clusters):
    x = make_clusters(2000, 6, 8)
    mixture = DirichletProcessMixture(2, 6, max_components=8).initialize(x)
    mixture.partial_fit(x)
    assert mixture.adapt(x) > 0
    assert mixture.num_components == 2  # until a pass settles them
    mixture.partial_fit(x)
    assert mixture.num_components > 2
    ruined = mixture.state.statistics
    mixture._set_state(mixture.state._replace(statistics=ruined._replace(sums=ruined.sums.flip(0))))
    mixture.adapt(x)
    assert mixture.num_components == 2


def test_an_update_makes_components_for_what_is_new(make_clusters):
    old, new = (make_clusters(4000, 16, 10, seed=seed) for seed in (0, 1))
    start = DirichletProcessMixture(10, 16).fit(old.split(500))
    found = {}
    for most in (10, 64):
        mixture = DirichletProcessMixture(10, 16, max_components=most)
        mixture.load_state_dict(start.state_dict())
        mixture.start_update()
        for epoch in range(3):
            for rows in new.split(500):
                mixture.partial_fit(rows, len(new))
            opened = mixture.adapt(new)
            assert opened == (10 if epoch == 0 else 0) or most == 10
        found[most] = float(torch.cat([mixture.log_prob(old), mixture.log_prob(new)]).mean())
        assert float(mixture.statistic_counts.sum()) == pytest.approx(8000)
        assert mixture.num_components == (10 if most == 10 else 20)
    assert found[64] > found[10] + 5.0


@pytest.mark.parametrize(("most", "inference"), [(3, "natural"), (64, "memoized")])
def test_growth_that_cannot_be_is_refused(most, inference):
    with pytest.raises(ValueError, match="`max_components` must be at least num_components, and inference natural"):
        DirichletProcessMixture(4, 6, inference=inference, max_components=most)
