# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from monai_dpmm_ad.network.intensity_tail import TAILS, compute_surprisal, make_surprisal_table, smooth_foreground

GRID = torch.linspace(0, 1, 1025)


def draw(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).mul(0.08).add(0.4).clamp(0, 1)


def test_surprisal_is_the_log_share_of_brighter_pixels() -> None:
    values = draw(20_000)
    table = make_surprisal_table(values, "bright")
    for x in (0.2, 0.4, 0.5, 0.6):
        share = (values > x).double().mean()
        assert compute_surprisal(torch.tensor(x), table) == pytest.approx(-math.log(share), abs=0.05)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 1000), tail=st.sampled_from(TAILS))
def test_tables_are_finite_and_grow_towards_their_tail(count: int, seed: int, tail: str) -> None:
    table = make_surprisal_table(draw(count, seed), tail)
    assert torch.isfinite(table).all()
    assert table.min() >= 0
    steps = table.diff()
    if tail != "both":
        assert ((steps if tail == "bright" else -steps) >= -1e-6).all()


def test_dark_mirrors_bright_and_both_takes_the_larger() -> None:
    values = draw(5000)
    bright, dark = make_surprisal_table(values, "bright"), make_surprisal_table(values, "dark")
    torch.testing.assert_close(make_surprisal_table(1 - values, "bright").flip(0), dark, atol=2e-3, rtol=1e-3)
    assert torch.equal(make_surprisal_table(values, "both"), torch.maximum(bright, dark))


def test_beyond_all_healthy_pixels_surprise_still_grows() -> None:
    values = draw(5000)
    table = make_surprisal_table(values, "bright")
    beyond = table[float(values.max()) < GRID]
    assert (beyond.diff() > 0).all()


def test_one_grey_value_gives_a_finite_table() -> None:
    assert torch.isfinite(make_surprisal_table(torch.full((100,), 0.3), "both")).all()


def test_smoothing_ignores_the_background_and_keeps_constants() -> None:
    image = torch.zeros(1, 1, 20, 20)
    image[..., 5:15, 4:16] = 0.3
    torch.testing.assert_close(smooth_foreground(image, 0.7), image)
    assert torch.equal(smooth_foreground(image, 0), image)


def test_smoothing_agrees_with_scipy_inside_a_full_image() -> None:
    image = torch.rand(1, 1, 30, 30, generator=torch.Generator().manual_seed(0)).clamp_min(0.01)
    expected = gaussian_filter(image[0, 0].numpy(), 0.7, truncate=3)[8:-8, 8:-8]
    found = smooth_foreground(image, 0.7)[0, 0, 8:-8, 8:-8]
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=2e-3, rtol=1e-2)


def test_unknown_tail_and_no_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bright"):
        make_surprisal_table(draw(10), "brigth")
    with pytest.raises(ValueError, match="at least one healthy pixel"):
        make_surprisal_table(torch.zeros(0), "bright")
