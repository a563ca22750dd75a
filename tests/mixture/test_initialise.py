# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Sampling a stream, and starting from the sample."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.initialise import draw_sample


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sizes", [[100], [1] * 100, [3, 50, 47]])
def test_sample_is_without_replacement_over_the_whole_stream(sizes):
    x = torch.arange(100.0)[:, None].expand(-1, 2)
    sample, seen = draw_sample(x.split(sizes), 30, make_generator())
    assert seen == 100
    assert sample.shape == (30, 2)
    assert len(sample[:, 0].unique()) == 30


def test_sample_is_uniform():
    x = torch.arange(20.0)[:, None]
    counts = torch.zeros(20)
    for seed in range(400):
        sample, _ = draw_sample(x.split(6), 5, make_generator(seed))
        counts[sample[:, 0].long()] += 1
    assert (counts - 100).abs().max() < 40  # four standard deviations are 35


def test_a_short_stream_is_taken_whole():
    sample, seen = draw_sample(torch.eye(3).split(1), 10, make_generator())
    assert seen == 3
    assert sample.sum().item() == 3.0


def test_empty_stream_is_refused():
    with pytest.raises(ValueError, match="at least one embedding, got none"):
        draw_sample([], 10, make_generator())


def test_initialisation_stands_for_the_data_set(make_clusters):
    x = make_clusters(200, 4, 5)
    mixture = DirichletProcessMixture(8, 4).initialize(x, num_data=1_000_000)
    assert mixture.state.statistics.counts.sum().item() == pytest.approx(1e6)
    assert mixture.posterior.count_components(0.99) <= 8
    assert (mixture.posterior.counts.diff() <= 0.0).all()


def test_fit_draws_its_sample_over_the_whole_stream(make_clusters):
    """The last batch is far from the first: components for both from the start."""
    near, far = make_clusters(300, 4, 1), make_clusters(300, 4, 1) + 50.0
    mixture = DirichletProcessMixture(6, 4, sample_size=50).fit([near, far], max_epochs=1)
    distance = mixture.euclidean_distance(torch.cat([near, far]))
    assert distance.max() < 5.0


def test_a_given_sample_and_size_need_no_pass(make_clusters):
    x = make_clusters(100, 4, 3)
    read = []

    class Counting:
        def __iter__(self):
            read.append(1)
            return iter(x.split(50))

    DirichletProcessMixture(5, 4).fit(Counting(), 100, sample=x[:50], max_epochs=1)
    assert len(read) == 1
