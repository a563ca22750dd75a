# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.clustering import compute_descriptor, compute_weights, score_against_normal, score_against_others


def draw_bags(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 5, generator=generator) for size in sizes]


@pytest.mark.parametrize("chunk_size", [1, 3, 8192])
def test_scores_against_others_are_mean_distances_to_each_images_nearest_patch(chunk_size: int) -> None:
    bags = draw_bags(4, 7, 1)
    found = score_against_others(bags, chunk_size=chunk_size)
    for own, bag in enumerate(bags):
        others = [torch.cdist(bag, other).amin(1) for index, other in enumerate(bags) if index != own]
        torch.testing.assert_close(found[own], torch.stack(others).mean(0), atol=1e-4, rtol=1e-4)


def test_scores_against_normal_are_distances_to_the_nearest() -> None:
    *bags, normal = draw_bags(4, 7, 30)
    for bag, scores in zip(bags, score_against_normal(bags, normal, chunk_size=2), strict=True):
        torch.testing.assert_close(scores, torch.cdist(bag, normal).amin(1), atol=1e-4, rtol=1e-4)


def test_tau_goes_from_the_mean_to_the_highest_score() -> None:
    scores = torch.tensor([0.1, 0.9, 0.3])
    torch.testing.assert_close(compute_weights(scores, torch.inf), torch.full((3,), 1 / 3))
    torch.testing.assert_close(compute_weights(scores, 1e-3), torch.tensor([0.0, 1.0, 0.0]))


def test_weights_do_not_change_when_scores_and_tau_are_scaled_together() -> None:
    scores = torch.rand(10)
    torch.testing.assert_close(compute_weights(scores, 0.2), compute_weights(1000 * scores, 200.0))


def test_a_patch_that_is_not_covered_does_not_count() -> None:
    weights = compute_weights(torch.tensor([5.0, 0.0, 0.0]), 1.0, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(weights, torch.tensor([0.0, 1 / 3, 2 / 3]))


def test_the_descriptor_is_the_weighted_mean() -> None:
    bag = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(compute_descriptor(bag, torch.tensor([0.25, 0.75])), torch.tensor([0.25, 0.75]))


def test_one_image_has_no_others() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        score_against_others(draw_bags(4))


def test_an_image_without_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="without patches"):
        score_against_others(draw_bags(4, 0))


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_tau_must_be_positive(tau: float) -> None:
    with pytest.raises(ValueError, match="`tau` must be positive"):
        compute_weights(torch.rand(3), tau)
