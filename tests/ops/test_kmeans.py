# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""k-means++ and Lloyd's algorithm."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from monai_dpmm_ad.ops.distances import nearest_centres
from monai_dpmm_ad.ops.kmeans import fit_kmeans, seed_kmeans


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight far clusters of 20 points in the plane, and their labels."""
    centres = 100.0 * torch.tensor([[i, j] for i in range(2) for j in range(4)], dtype=torch.float32)
    labels = torch.arange(8).repeat_interleave(20)
    return centres[labels] + torch.randn(160, 2, generator=make_generator()), labels


@pytest.mark.parametrize("seed", range(5))
def test_seeds_hit_every_far_cluster(blobs, seed):
    x, labels = blobs
    seeds = seed_kmeans(x, 8, make_generator(seed))
    _, nearest = nearest_centres(seeds, x)
    assert sorted(labels[nearest].tolist()) == list(range(8))


def test_seeds_are_data_points(blobs):
    x, _ = blobs
    distances, _ = nearest_centres(seed_kmeans(x, 5, make_generator()), x)
    assert distances.max() < 1e-2


def test_kmeans_finds_far_clusters(blobs):
    x, labels = blobs
    found = fit_kmeans(x, 8, make_generator())
    assert len(torch.unique(torch.stack([found.labels, labels]), dim=1).T) == 8


def test_inertia_is_that_of_labels(blobs):
    x, _ = blobs
    found = fit_kmeans(x, 5, make_generator())
    expected = (x - found.centres[found.labels]).square().sum()
    torch.testing.assert_close(found.inertia.float(), expected, rtol=1e-3, atol=1.0)


def test_lloyd_does_not_raise_inertia(blobs):
    x, _ = blobs
    inertia = [float(fit_kmeans(x, 12, make_generator(), max_iterations=i).inertia) for i in (0, 1, 3, 10)]
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(inertia))


def test_more_restarts_are_no_worse(blobs):
    x, _ = blobs
    one, five = (float(fit_kmeans(x, 12, make_generator(), restarts=r).inertia) for r in (1, 5))
    assert five <= one


def test_same_seed_same_result(blobs):
    x, _ = blobs
    a, b = (fit_kmeans(x, 6, make_generator(3)) for _ in range(2))
    assert torch.equal(a.centres, b.centres)


def test_fewer_distinct_points_than_clusters_gives_fewer_centres():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]).repeat(4, 1)
    assert seed_kmeans(x, 10, make_generator()).shape[0] == 3
    assert fit_kmeans(x[:3], 10, make_generator()).inertia < 1e-6


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="N ≥ 1"):
        seed_kmeans(torch.zeros(0, 2), 3, make_generator())
    with pytest.raises(ValueError, match=r"`num_clusters` must be positive, got 0"):
        seed_kmeans(torch.zeros(3, 2), 0, make_generator())
    with pytest.raises(ValueError, match=r"`restarts` must be positive, got 0"):
        fit_kmeans(torch.zeros(3, 2), 2, make_generator(), restarts=0)
