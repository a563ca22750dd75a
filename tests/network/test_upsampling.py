# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Guided upsampling: equal to the slow oracle, exact on constants, sharper where scores follow the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.patches import upsample_guided_slow
from torch import Tensor

from monai_dpmm_ad.network.upsampling import REFINEMENTS, refine_scores, upsample_guided, upsample_scores

untimed = settings(deadline=None, max_examples=40)


def draw(seed: int, batch: int, h: int, w: int, patch: float, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, validity and an image with background."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.rand(batch, h, w, generator=generator, dtype=torch.float64) * 50
    valid = torch.rand(batch, h, w, generator=generator) < share
    size = (max(1, int(h * patch)), max(1, int(w * patch)))
    guide = torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)
    return grid, valid, guide * (guide > 0.2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    patch=st.sampled_from([1.0, 2.0, 3.5]),
    share=st.sampled_from([0.5, 0.9, 1.0]),
    radius=st.integers(1, 2),
    start=st.sampled_from([(0.0, 0.0), (0.0, 0.75), (0.5, 0.25)]),
)
def test_guided_upsampling_equals_the_slow_oracle(
    seed: int, h: int, w: int, patch: float, share: float, radius: int, start: tuple[float, float]
) -> None:
    grid, valid, guide = draw(seed, 1, h, w, patch, share)
    slow = upsample_guided_slow(
        grid[0].numpy(), valid[0].numpy(), guide[0, 0].numpy(), (patch,) * 2, start, radius, 0.01
    )
    fast = upsample_guided(torch.where(valid, grid, torch.nan), valid, guide, (patch,) * 2, start, radius, 0.01)
    free = np.isnan(slow)  # several patches are equally near
    np.testing.assert_allclose(fast[0, 0].numpy()[~free], slow[~free], atol=1e-7)


@untimed
@given(seed=st.integers(0, 1000), value=st.floats(0, 1e6, width=32), mode=st.sampled_from(REFINEMENTS))
def test_a_constant_grid_stays_exactly_constant(seed: int, value: float, mode: str) -> None:
    _, valid, guide = draw(seed, 3, 4, 5, 6.5, 0.4)
    valid[:, 0, 0] = True
    grid = torch.where(valid, value, torch.nan)
    assert (refine_scores(grid, valid, guide.float(), mode, (6.5, 6.5)) == np.float32(value)).all()


@untimed
@given(seed=st.integers(0, 1000), mode=st.sampled_from(REFINEMENTS))
def test_invalid_patches_do_not_bleed_and_no_score_is_invented(seed: int, mode: str) -> None:
    grid, valid, guide = draw(seed, 2, 4, 5, 4.0, 0.6)
    first = refine_scores(torch.where(valid, grid, 1e30), valid, guide, mode, (4.0, 4.0))
    assert torch.equal(first, refine_scores(torch.where(valid, grid, -7.0), valid, guide, mode, (4.0, 4.0)))
    for drawn, scores, keep in zip(first, grid, valid, strict=True):
        low, high = (float(scores[keep].min()), float(scores[keep].max())) if keep.any() else (0.0, 0.0)
        assert low - 1e-9 <= drawn.min() <= drawn.max() <= high + 1e-9


def test_without_detail_in_the_image_the_map_is_bilinear() -> None:
    grid, valid, guide = draw(0, 2, 4, 4, 5.0, 0.8)
    flat = torch.full_like(guide, 0.4)
    expected = upsample_scores(grid, valid, (20, 20), patch_size=5.0)
    torch.testing.assert_close(refine_scores(grid, valid, flat, "guided", (5.0, 5.0)), expected)


def test_scores_that_do_not_follow_the_image_stay_bilinear() -> None:
    guide = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    guide = 0.5 + 0.4 * (guide - F.interpolate(F.avg_pool2d(guide, 4), scale_factor=4))  # each patch has the same mean
    grid = torch.rand(1, 8, 8)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    bilinear = upsample_scores(grid, valid, (32, 32))
    torch.testing.assert_close(refine_scores(grid, valid, guide, "guided", (4.0, 4.0)), bilinear, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_lesion_gets_its_outline_back_be_it_bright_or_dark(sign: int) -> None:
    truth = torch.zeros(1, 1, 48, 48)
    truth[..., 13:27, 18:29] = 1
    guide = 0.5 + 0.2 * sign * truth
    grid = 3 + 10 * F.avg_pool2d(truth, 8)[:, 0]  # what patches of 8 pixels see
    valid = torch.ones_like(grid, dtype=torch.bool)
    errors = {
        mode: float((refine_scores(grid, valid, guide, mode, (8.0, 8.0)) - (3 + 10 * truth)).abs().mean())
        for mode in REFINEMENTS
    }
    assert errors["guided"] < 0.5 * errors["bilinear"]


def test_each_image_is_refined_by_itself() -> None:
    grid, valid, guide = draw(3, 3, 4, 4, 5.0, 0.7)
    together = refine_scores(grid, valid, guide, "guided", (5.0, 5.0))
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(
            together[one], refine_scores(grid[one], valid[one], guide[one], "guided", (5.0, 5.0))
        )


def test_bad_input_is_refused() -> None:
    grid, valid, guide = draw(0, 2, 3, 3, 4.0, 1.0)
    with pytest.raises(ValueError, match=r"`upsampling` must be one of.*Did you mean 'guided'"):
        refine_scores(grid, valid, guide, "guide", (4.0, 4.0))
    for wrong in (guide[:1], guide[:, 0], guide.expand(2, 3, -1, -1)):
        with pytest.raises(ValueError, match=r"`guide` must have shape \(B, 1, H, W\)"):
            refine_scores(grid, valid, wrong, "guided", (4.0, 4.0))
    with pytest.raises(ValueError, match="Give `patch_size` in pixels of the map"):
        refine_scores(grid, valid, guide, "guided", (40.0, 40.0))
