# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Padding, pooling and upsampling between pixels and the patch grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.patches import upsample_scores_slow

from monai_dpmm_ad.network.upsampling import upsample_scores
from monai_dpmm_ad.ops.patches import normalize_embeddings, pad_to_multiple, pool_foreground

untimed = settings(deadline=None, max_examples=40)


@untimed
@given(height=st.integers(1, 40), width=st.integers(1, 40), patch=st.integers(1, 16))
def test_padding_is_zero_at_the_bottom_and_the_right(height: int, width: int, patch: int) -> None:
    images = torch.rand(2, 3, height, width) + 1
    padded, (h, w) = pad_to_multiple(images, patch)
    assert padded.shape == (2, 3, h * patch, w * patch)
    assert (h - 1) * patch < height <= h * patch
    assert (w - 1) * patch < width <= w * patch
    assert torch.equal(padded[..., :height, :width], images)
    assert padded.sum() == pytest.approx(images.sum().item(), rel=1e-5)


def test_whole_patches_are_not_copied() -> None:
    images = torch.rand(1, 1, 28, 14)
    assert pad_to_multiple(images, 14)[0] is images


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_foreground_share_counts_pixels_of_the_whole_patch(dtype: torch.dtype) -> None:
    mask = torch.zeros(1, 1, 5, 4)
    mask[..., :2, :2] = 1
    mask[..., 4, 0] = 1
    expected = torch.tensor([[[0.25, 0.0], [0.0625, 0.0]]])[:, :, :1]
    assert torch.equal(pool_foreground(mask.to(dtype), 4), expected)


@untimed
@given(seed=st.integers(0, 1000), height=st.integers(1, 30), width=st.integers(1, 30), patch=st.integers(1, 9))
def test_foreground_shares_add_up_to_the_mask(seed: int, height: int, width: int, patch: int) -> None:
    mask = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed)) < 0.4
    share = pool_foreground(mask, patch)
    assert 0 <= share.min() <= share.max() <= 1
    torch.testing.assert_close(share.sum((1, 2)) * patch**2, mask.sum((1, 2, 3)).float())


def test_upsampling_of_valid_patches_is_the_interpolation_of_torch() -> None:
    grid = torch.rand(2, 5, 3)
    expected = F.interpolate(grid[:, None], (35, 21), mode="bilinear", align_corners=False)
    valid = torch.ones_like(grid, dtype=torch.bool)
    torch.testing.assert_close(upsample_scores(grid, valid, (35, 21)), expected)
    cropped = upsample_scores(grid, valid, (31, 17), patch_size=7)
    torch.testing.assert_close(cropped, expected[..., :31, :17])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    patch=st.sampled_from([1.0, 2.0, 3.0, 4.5]),
    share=st.floats(0, 1),
    cut=st.integers(0, 1),
)
def test_upsampling_equals_the_slow_oracle(seed: int, h: int, w: int, patch: float, share: float, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = torch.rand(1, h, w, generator=generator, dtype=torch.float64)
    valid = torch.rand(1, h, w, generator=generator) < share
    size = (max(1, int(h * patch) - cut), max(1, int(w * patch)))
    fast = upsample_scores(torch.where(valid, grid, torch.nan), valid, size, patch_size=patch)[0, 0].numpy()
    slow = upsample_scores_slow(grid[0].numpy(), valid[0].numpy(), size, (patch, patch))
    free = np.isnan(slow)
    np.testing.assert_allclose(fast[~free], slow[~free], atol=1e-9)
    assert np.isin(fast[free].round(9), grid.numpy().round(9)).all()


@untimed
@given(seed=st.integers(0, 1000), value=st.floats(-1e6, 1e6, width=32))
def test_a_constant_grid_stays_exactly_constant(seed: int, value: float) -> None:
    valid = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed)) < 0.3
    valid[:, 0, 0] = True
    grid = torch.where(valid, value, torch.inf)
    for mode in ("bilinear", "nearest"):
        assert (upsample_scores(grid, valid, (27, 40), mode, patch_size=7) == np.float32(value)).all()


@untimed
@given(seed=st.integers(0, 1000))
def test_invalid_patches_do_not_bleed(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid, valid = torch.rand(2, 4, 5, generator=generator), torch.rand(2, 4, 5, generator=generator) < 0.5
    first = upsample_scores(torch.where(valid, grid, 1e30), valid, (16, 20))
    assert torch.equal(first, upsample_scores(torch.where(valid, grid, -7), valid, (16, 20)))
    for image, keep, scores in zip(first, valid, grid, strict=True):
        if keep.any():
            assert image.min() >= scores[keep].min() - 1e-5
            assert image.max() <= scores[keep].max() + 1e-5


def test_an_image_without_valid_patches_is_zero() -> None:
    grid = torch.full((2, 2, 2), torch.nan)
    valid = torch.tensor([False, True])[:, None, None].expand(2, 2, 2)
    scores = upsample_scores(torch.where(valid, 3.0, grid), valid, (4, 4))
    assert (scores[0] == 0).all()
    assert (scores[1] == 3).all()


def test_far_pixels_take_the_nearest_valid_patch() -> None:
    grid, valid = torch.zeros(1, 1, 6), torch.zeros(1, 1, 6, dtype=torch.bool)
    grid[0, 0, 0], grid[0, 0, 5] = 1.0, 2.0
    valid[0, 0, [0, 5]] = True
    assert upsample_scores(grid, valid, (1, 6)).flatten().tolist() == [1, 1, 1, 2, 2, 2]


def test_a_patch_centre_keeps_its_score() -> None:
    grid = torch.rand(1, 3, 4)
    upsampled = upsample_scores(grid, torch.ones_like(grid, dtype=torch.bool), (43, 60), patch_size=15)
    torch.testing.assert_close(upsampled[0, 0, 7::15, 7::15], grid[0])


def test_map_may_have_another_resolution_than_the_embedded_image() -> None:
    grid = torch.rand(1, 4, 4)
    valid = torch.ones_like(grid, dtype=torch.bool)
    fine, coarse = (upsample_scores(grid, valid, (side, side), patch_size=side / 4) for side in (400, 100))
    torch.testing.assert_close(F.avg_pool2d(fine, 4), coarse, atol=2e-2, rtol=0)


@untimed
@given(seed=st.integers(0, 100))
def test_normalised_embeddings_have_norm_one(seed: int) -> None:
    x = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(seed)) * 100
    y = normalize_embeddings(x)
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(5, 2))
    torch.testing.assert_close(y * x.norm(dim=-1, keepdim=True), x)
    assert (normalize_embeddings(torch.zeros(3, 4)) == 0).all()


def test_bad_input_is_refused() -> None:
    grid, valid = torch.rand(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="`patch_size` must be at least 1"):
        pad_to_multiple(torch.rand(1, 1, 4, 4), 0)
    with pytest.raises(ValueError, match=r"`images` must have shape"):
        pad_to_multiple(torch.rand(1, 1, 0, 4), 2)
    with pytest.raises(ValueError, match=r"`mask` must have shape \(B, 1, H, W\)"):
        pool_foreground(torch.rand(1, 3, 4, 4), 2)
    with pytest.raises(ValueError, match="Did you mean 'bilinear'"):
        upsample_scores(grid, valid, (4, 4), mode="bilinaer")
    with pytest.raises(ValueError, match="must both have shape"):
        upsample_scores(grid, valid[:, :1], (4, 4))
    with pytest.raises(ValueError, match="Give `patch_size` in pixels of the map"):
        upsample_scores(grid, valid, (40, 40), patch_size=14)
