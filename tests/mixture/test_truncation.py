# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A truncation that binds is told of, and may grow."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.mixture import DirichletProcessMixture


def test_a_truncation_that_binds_is_reported(make_clusters):
    x = make_clusters(2000, 8, 12)
    few, many = (DirichletProcessMixture(k, 8).fit(x.split(500)).posterior.summarise() for k in (6, 30))
    assert few["truncation_binds"] is True
    assert many["truncation_binds"] is False
    assert many["num_active"] < 30


@pytest.mark.parametrize("covariance", ["diagonal", "rotated"])
def test_a_truncation_grows_until_a_component_is_empty(covariance, make_clusters):
    x, held_out = make_clusters(9000, 8, 24).split([8000, 1000])
    fixed = DirichletProcessMixture(6, 8, covariance).fit(x.split(500))
    grown = DirichletProcessMixture(6, 8, covariance, max_components=200).fit(x.split(500), max_epochs=12)
    assert fixed.num_components == 6
    assert 24 < grown.num_components <= 40  # one component for every 200 data at most
    assert 20 <= grown.posterior.num_active <= 28
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


@pytest.mark.parametrize(("most", "inference"), [(3, "natural"), (64, "memoized")])
def test_growth_that_cannot_be_is_refused(most, inference):
    with pytest.raises(ValueError, match="`max_components` must be at least num_components, and inference natural"):
        DirichletProcessMixture(4, 6, inference=inference, max_components=most)
