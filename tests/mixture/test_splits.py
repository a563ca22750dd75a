# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Splits: when they are proposed, what they cost, and that the ELBO decides."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.initialise import compute_hard_statistics
from monai_dpmm_ad.mixture.moves.merges import MergeTree
from monai_dpmm_ad.mixture.moves.splits import Split, accept_splits, propose_splits, trade_splits
from monai_dpmm_ad.mixture.statistics import Statistics

FAMILIES = ["spherical", "diagonal", "rotated", "full", "vmf"]


def start(x, labels, num_components, covariance="diagonal"):
    """A mixture whose statistics are those of labelled data."""
    mixture = DirichletProcessMixture(num_components, x.shape[1], covariance).initialize(x)
    prior = mixture.prior
    statistics = compute_hard_statistics(prior.family, prior.scale, x, labels, num_components)
    mixture._set_state(mixture.state._replace(statistics=statistics))
    return mixture


@pytest.fixture
def groups(make_directions):
    """Three groups of unit vectors, (600, 6), and their labels."""
    parts = [make_directions(200, 6, 1, seed=seed, spread=0.05) for seed in range(3)]
    return torch.cat(parts), torch.arange(3).repeat_interleave(200)


@pytest.mark.parametrize("covariance", FAMILIES)
def test_a_component_with_two_groups_is_split_into_an_empty_one(covariance, groups):
    x, truth = groups
    mixture = start(x, torch.tensor([0, 0, 1])[truth], 3, covariance)
    before = float(mixture.elbo(x))
    assert mixture.adapt(x) == 1
    assert float(mixture.elbo(x)) > before + 100.0
    assert sorted(mixture.statistic_counts.round().tolist()) == [200, 200, 200]


@pytest.mark.parametrize("covariance", FAMILIES)
def test_where_none_is_empty_a_merge_makes_room(covariance, groups):
    x, truth = groups
    labels = torch.tensor([0, 0, 1])[truth]
    labels[400::2] = 2  # the third group is held by two components at random
    mixture = start(x, labels, 3, covariance)
    mixture.adapt(x)
    mixture.adapt(x)
    assert sorted(mixture.statistic_counts.round().tolist()) == [200, 200, 200]


@pytest.mark.parametrize("covariance", FAMILIES)
def test_one_group_is_not_split(covariance, make_directions):
    x = make_directions(400, 6, 1, spread=0.05)
    mixture = start(x, torch.zeros(400, dtype=torch.long), 4, covariance)
    assert mixture.adapt(x) == 0
    assert mixture.posterior.num_active == 1


def test_the_gain_is_that_of_the_elbo_where_weights_do_not_change(groups):
    x, truth = groups
    mixture = start(x.double(), torch.tensor([0, 0, 1])[truth], 3)
    labels = torch.tensor([0, 0, 1])[truth]
    found = propose_splits(mixture.prior, x, labels, torch.tensor(1.0), 3, torch.Generator().manual_seed(0))
    assert [split.component for split in found] == [0]
    assert found[0].halves.counts.tolist() == [200.0, 200.0]
    before = float(mixture.elbo(x.double()))
    mixture.adapt(x.double())
    change = float(mixture.elbo(x.double())) - before
    assert found[0].gain == pytest.approx(change, rel=0.02)  # the rest is what the sticks and α make of it


def test_trades_keep_the_total_and_never_use_a_component_twice(groups):
    x, truth = groups
    mixture = start(x, truth, 3)
    statistics = mixture.state.statistics
    half = compute_hard_statistics(mixture.prior.family, mixture.prior.scale, x[:200], torch.arange(200) % 2, 2)
    splits = [Split(0, 50.0, half), Split(1, 40.0, half), Split(2, 30.0, half)]
    pairs = MergeTree(torch.tensor([[False, True, True]]), [(-2, -3)])
    cheap = torch.tensor([1e9], dtype=torch.float64)
    trades = trade_splits(mixture.prior, mixture.state, splits, pairs, cheap)
    assert [(trade.split.component, trade.target, trade.merged) for trade in trades] == [(0, 2, 1)]
    state, accepted = accept_splits(mixture.prior, mixture.state, trades, lambda s: -float(s.statistics.counts[0]))
    assert accepted == 1
    torch.testing.assert_close(state.statistics.counts.sum(), statistics.counts.sum())
    torch.testing.assert_close(state.statistics.sums.sum(0), statistics.sums.sum(0), rtol=1e-6, atol=1e-4)


def test_a_trade_that_loses_more_than_it_gains_is_not_made(groups):
    x, truth = groups
    mixture = start(x, truth, 3)
    statistics = mixture.state.statistics
    half = Statistics(*(part[:2] for part in statistics[:3]), statistics.size)
    pairs = MergeTree(torch.tensor([[False, True, True]]), [(-2, -3)])
    nothing = torch.zeros(1, dtype=torch.float64)
    assert trade_splits(mixture.prior, mixture.state, [Split(0, 1.0, half)], pairs, nothing) == []


def test_no_elbo_that_rises_means_no_split(groups):
    x, truth = groups
    mixture = start(x, torch.tensor([0, 0, 1])[truth], 3)
    half = compute_hard_statistics(mixture.prior.family, mixture.prior.scale, x[:400], truth[:400], 2)
    pairs = MergeTree(torch.zeros(0, 3, dtype=torch.bool), [])
    trades = trade_splits(mixture.prior, mixture.state, [Split(0, 1.0, half)], pairs, torch.zeros(0))
    assert len(trades) == 1
    state, accepted = accept_splits(mixture.prior, mixture.state, trades, lambda _: 0.0)
    assert accepted == 0
    assert state is mixture.state or torch.equal(state.statistics.counts, mixture.statistic_counts)
