# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Merges: the number of components adapts to the data."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.expectation import run_local_step
from monai_dpmm_ad.mixture.families import COVARIANCES
from monai_dpmm_ad.mixture.moves.merges import (
    MergeTree,
    choose_groups,
    compute_merge_gains,
    merge_statistics,
    propose_merges,
)
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import compute_elbo


@pytest.mark.parametrize("inference", ["natural", "memoized"])
@pytest.mark.parametrize("seed", range(5))
def test_thirty_clusters_are_found_among_two_hundred(inference, seed, make_clusters):
    x = make_clusters(1000, 16, 30, seed=seed)
    mixture = DirichletProcessMixture(200, 16, inference=inference, seed=seed).fit(x.split(250))
    assert 27 <= mixture.posterior.count_components(0.99) <= 33


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_every_family_merges_fragments(covariance, make_directions):
    x = make_directions(1000, 8, 5, spread=0.05).double()
    mixture = DirichletProcessMixture(15, 8, covariance, "memoized", top_components=15).fit(x.split(250))
    assert mixture.posterior.count_components(0.99) == 5


def test_gain_is_the_exact_change_of_the_elbo(make_clusters):
    """All of it that does not come from the weights of other components."""
    x = make_clusters(200, 4, 3).double()
    mixture = DirichletProcessMixture(6, 4).initialize(x)
    prior, state = mixture.prior, mixture.state
    tree = propose_merges(prior, state)
    found = run_local_step(prior, mixture.factors, x, 100, tree.groups)
    state = prior.update(found.statistics, state)
    gains = compute_merge_gains(prior, state, tree.groups, found.group_entropy)
    before = compute_elbo(prior, state.statistics, prior.build(state))
    for index in range(len(gains)):
        merged = merge_statistics(state.statistics, tree.groups[[index]], found.group_entropy[[index]])
        after = prior.update(merged, state)
        change = compute_elbo(prior, after.statistics, prior.build(after)) - before
        assert abs(float(change - gains[index])) < 25.0  # the sticks, a few nats a component
        assert abs(float(change)) > 25.0  # what is compared is not nothing


def test_group_entropy_is_that_of_summed_responsibilities(make_clusters):
    x = make_clusters(100, 3, 4, spread=1.0).double()
    mixture = DirichletProcessMixture(5, 3).initialize(x)
    groups = torch.tensor([[True, True, False, False, False], [True] * 5, [False, False, False, True, False]])
    found = run_local_step(mixture.prior, mixture.factors, x, 30, groups)
    assert 0.0 < found.group_entropy[0] < found.statistics.entropy[:2].sum()
    torch.testing.assert_close(found.group_entropy[1], torch.tensor(0.0).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.group_entropy[2], found.statistics.entropy[3], atol=1e-8, rtol=1e-6)


def test_merged_statistics_keep_their_total():
    statistics = Statistics(
        torch.tensor([3.0, 2.0, 1.0, 4.0]).double(),
        torch.arange(8.0).double().view(4, 2),
        torch.ones(4).double(),
        torch.tensor(10.0).double(),
    )
    groups = torch.tensor([[False, True, False, True]])
    merged = merge_statistics(statistics, groups, torch.tensor([0.5]).double())
    assert merged.counts.tolist() == [3.0, 6.0, 1.0, 0.0]
    assert merged.sums.tolist() == [[0.0, 1.0], [8.0, 10.0], [4.0, 5.0], [0.0, 0.0]]
    assert merged.entropy.tolist() == [1.0, 0.5, 1.0, 0.0]


def test_the_best_disjoint_nodes_are_chosen():
    """Nodes 0 = {a, b}, 1 = {c, d}, 2 = both: one or the other level, whichever gains more."""
    tree = MergeTree(torch.zeros(3, 4, dtype=torch.bool), [(-1, -2), (-3, -4), (0, 1)])
    assert choose_groups(tree, [1.0, 2.0, 4.0]) == [2]
    assert choose_groups(tree, [1.0, 2.0, 2.5]) == [1, 0]
    assert choose_groups(tree, [-1.0, 2.0, 1.0]) == [1]
    assert choose_groups(tree, [-1.0, -2.0, -3.0]) == []


def test_adapting_does_not_lower_the_elbo_of_the_sample(make_clusters):
    x = make_clusters(500, 6, 5).double()
    mixture = DirichletProcessMixture(20, 6).initialize(x)
    mixture.partial_fit(x)
    before = mixture.elbo(x)
    assert mixture.adapt(x) > 0
    assert mixture.elbo(x) > before
    assert (mixture.state.statistics.counts.diff() <= 0.0).all()


def test_one_component_has_nothing_to_merge(make_clusters):
    x = make_clusters(50, 3, 1)
    mixture = DirichletProcessMixture(1, 3).fit(x.split(25))
    assert mixture.posterior.count_components() == 1


def test_adapting_needs_a_sample(make_clusters):
    mixture = DirichletProcessMixture(3, 3).initialize(make_clusters(50, 3, 3))
    with pytest.raises(ValueError, match=r"`sample` must be given for natural inference"):
        mixture.adapt()


def test_adapting_refuses_a_bad_sample(make_clusters):
    x = make_clusters(100, 4, 3)
    mixture = DirichletProcessMixture(5, 4).initialize(x)
    bad = x.clone()
    bad[37, 2] = float("nan")
    with pytest.raises(ValueError, match="in row 37"):
        mixture.adapt(bad)
