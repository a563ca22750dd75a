# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.coreset import greedy_k_centres

from monai_dpmm_ad.detectors.coreset import iterate_k_centres, project_randomly


def draw(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 9), st.integers(0, 1000))
def test_the_choice_is_that_of_the_plain_greedy_algorithm(rows: int, dim: int, candidates: int, seed: int) -> None:
    x = draw(rows, dim, seed)
    chosen = list(iterate_k_centres(x, rows, candidates=candidates, chunk_size=7))
    assert chosen == greedy_k_centres(x, rows)


def test_radius_falls_and_no_point_is_chosen_twice() -> None:
    x = draw(300, 4, 0)
    chosen = list(iterate_k_centres(x, 40))
    assert len(set(chosen)) == 40
    radii = [float(torch.cdist(x, x[chosen[:count]]).amin(1).max()) for count in (1, 5, 20, 40)]
    assert radii == sorted(radii, reverse=True)


def test_choosing_stops_when_all_points_coincide() -> None:
    x = draw(3, 4, 0).repeat(5, 1).float()
    assert len(list(iterate_k_centres(x, 10))) == 3
    assert len(list(iterate_k_centres(torch.ones(8, 2), 8))) == 1


def test_a_projection_keeps_distances_and_does_nothing_where_it_is_not_smaller() -> None:
    x = draw(50, 400, 0)
    generator = torch.Generator().manual_seed(0)
    projected = project_randomly(x, 256, generator)
    ratio = torch.pdist(projected) / torch.pdist(x)
    assert projected.shape == (50, 256)
    assert ratio.min() > 0.7
    assert ratio.max() < 1.3
    assert project_randomly(x, 400, generator) is x


@pytest.mark.parametrize("count", [0, 6])
def test_impossible_numbers_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="`count` must lie between 1 and the number of points 5"):
        next(iterate_k_centres(draw(5, 2, 0), count))
    with pytest.raises(ValueError, match="N ≥ 1"):
        next(iterate_k_centres(torch.zeros(0, 2), 1))
