# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_closing
from torch import Tensor

from monai_dpmm_ad.network.patch_mask import PrincipalMask, close_grid


@pytest.fixture
def scene() -> tuple[Tensor, Tensor]:
    """Object patches of one kind in the middle, others around; all foreground."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(2, 8, generator=generator)
    object_area = torch.zeros(1, 12, 12, dtype=torch.bool)
    object_area[:, 3:9, 3:9] = True
    patches = kinds[object_area.long()] + 0.1 * torch.randn(1, 12, 12, 8, generator=generator)
    return patches, object_area


def test_the_object_in_the_middle_is_found(scene: tuple[Tensor, Tensor]) -> None:
    patches, area = scene
    inside = torch.ones_like(area)
    assert torch.equal(PrincipalMask()(patches, inside), area)
    assert torch.equal(PrincipalMask()(-patches, inside), area)


def test_holes_are_closed_and_the_mask_stays_inside(scene: tuple[Tensor, Tensor]) -> None:
    patches, area = scene
    patches[0, 5, 5] = patches[0, 0, 0]
    inside = torch.ones_like(area)
    inside[0, 3] = False
    kept = PrincipalMask()(patches, inside)
    assert kept[0, 5, 5]
    assert not PrincipalMask(closing=0)(patches, inside)[0, 5, 5]
    assert not (kept & ~inside).any()


def test_a_higher_threshold_keeps_less_and_never_nothing(scene: tuple[Tensor, Tensor]) -> None:
    patches, area = scene
    inside = torch.ones_like(area)
    low, high = (PrincipalMask(threshold, closing=0)(patches, inside) for threshold in (-0.5, 1.8))
    assert not (high & ~low).any()
    assert torch.equal(PrincipalMask(1e9)(patches, inside), inside)


def test_images_without_structure_keep_what_they_have() -> None:
    inside = torch.zeros(2, 4, 4, dtype=torch.bool)
    inside[0, :2] = True
    kept = PrincipalMask()(torch.ones(2, 4, 4, 3), inside)
    assert kept[0].any()
    assert not kept[1].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 2))
def test_closing_is_that_of_scipy_away_from_the_rim(seed: int, radius: int) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) > 0.6
    padded = np.pad(mask, 2 * radius)
    size = 2 * radius + 1
    expected = binary_closing(padded, np.ones((size, size)))
    assert np.array_equal(close_grid(torch.from_numpy(padded)[None], radius)[0].numpy(), expected)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'pca'"):
        PrincipalMask.make("pcaa", 0.0, 1)
    with pytest.raises(ValueError, match="mask_closing"):
        PrincipalMask.make("pca", 0.0, -1)
    assert PrincipalMask.make("none", 0.0, 1) is None
