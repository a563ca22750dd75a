# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""k-means for many clusters: seeds in rounds, Lloyd on a part, everything assigned."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.mixture import seeding
from monai_dpmm_ad.mixture.seeding import assign_nearest, label_sample, seed_in_rounds
from monai_dpmm_ad.ops.kmeans import fit_kmeans


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
def test_seeds_are_points_that_lie_far_apart(seed, make_clusters, monkeypatch):
    monkeypatch.setattr(seeding, "GREEDY", 4)
    x = make_clusters(2000, 8, 20, spread=0.01)
    seeds = seed_in_rounds(x, 20, make_generator(seed))
    distances = torch.cdist(x, seeds)
    assert distances.amin(0).max() < 1e-2
    assert (distances.amin(1) < 0.5).float().mean() > 0.85  # most clusters have one; at random a third have none


def test_no_more_seeds_than_distinct_points():
    x = torch.eye(3).repeat(50, 1)
    assert len(seed_in_rounds(x, 10, make_generator())) == 3
    assert label_sample(x, 10, make_generator()).unique().numel() == 3
    assert label_sample(torch.ones(5, 2), 4, make_generator()).tolist() == [0] * 5


def test_nearest_centres_are_found_up_to_rounding(make_clusters):
    x, centres = make_clusters(1000, 64, 30), make_clusters(50, 64, 50, seed=1)
    distances = torch.cdist(x, centres)
    found = distances.gather(1, assign_nearest(x, centres)[:, None])[:, 0]
    torch.testing.assert_close(found, distances.amin(1), rtol=0.02, atol=0.0)
    assert torch.equal(assign_nearest(x.double(), centres.double()), distances.argmin(1))


def test_clusters_are_nearly_those_of_greedy_kmeans(make_clusters, monkeypatch):
    """Also where Lloyd sees a part of the rows only."""
    monkeypatch.setattr(seeding, "LEAST_ROWS", 500)
    x = make_clusters(3000, 16, 40, spread=0.5)
    x = x - x.mean(0)
    labels = label_sample(x, 30, make_generator())
    means = torch.stack([x[labels == k].mean(0) for k in labels.unique().tolist()])
    inertia = float(torch.cdist(x, means).amin(1).square().sum())
    assert inertia < 1.15 * float(fit_kmeans(x, 30, make_generator()).inertia)


def test_same_seed_same_labels(make_clusters):
    x = make_clusters(500, 8, 10)
    assert torch.equal(label_sample(x, 12, make_generator(3)), label_sample(x, 12, make_generator(3)))
