# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Distances to the nearest of a few centres."""

from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.ops.distances import nearest_centres, nearest_cosine_distance, nearest_euclidean_distance


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Points (37, 5) and centres (4, 5)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(37, 5, generator=generator), torch.randn(4, 5, generator=generator)


@pytest.mark.parametrize("chunk_size", [1, 10, 100])
def test_euclidean_agrees_with_cdist(points, chunk_size):
    x, centres = points
    expected = torch.cdist(x, centres).amin(1)
    torch.testing.assert_close(nearest_euclidean_distance(x, centres, chunk_size), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 10, 100])
def test_cosine_agrees_with_pairwise(points, chunk_size):
    x, centres = points
    expected = 1.0 - torch.nn.functional.cosine_similarity(x[:, None], centres, dim=2).amax(1)
    torch.testing.assert_close(nearest_cosine_distance(x, centres, chunk_size), expected, rtol=1e-5, atol=1e-6)


def test_euclidean_is_translation_invariant(points):
    x, centres = points
    near = nearest_euclidean_distance(x, centres)
    far = nearest_euclidean_distance(x + 100.0, centres + 100.0)
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


def test_cosine_does_not_depend_on_length(points):
    x, centres = points
    scaled = nearest_cosine_distance(7.0 * x, 0.1 * centres)
    torch.testing.assert_close(nearest_cosine_distance(x, centres), scaled)


def test_a_centre_is_at_distance_zero_from_itself(points):
    _, centres = points
    assert nearest_cosine_distance(centres, centres).max() < 1e-6
    distances, labels = nearest_centres(centres, centres)
    assert distances.max() < 1e-5
    assert labels.tolist() == [0, 1, 2, 3]


def test_zero_row_has_cosine_distance_one(points):
    _, centres = points
    assert nearest_cosine_distance(torch.zeros(1, 5), centres).item() == 1.0


@pytest.mark.parametrize("compute", [nearest_cosine_distance, nearest_euclidean_distance, nearest_centres])
def test_other_dimension_is_refused(points, compute):
    x, centres = points
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, 5\)"):
        compute(x[:, :3], centres)
    with pytest.raises(ValueError, match="K ≥ 1"):
        compute(x, centres[:0])
