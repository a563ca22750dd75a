# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Random lesions: inside the tissue, of the stated size and contrast, with exact masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from monai_dpmm_ad.data.synthetic_lesions import insert_lesion_2d, insert_lesions


def _ball(shape: tuple[int, ...], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    return np.linalg.norm(grid, axis=0) < radius


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(40, 120), width=st.integers(40, 120))
def test_a_slice_changes_around_its_mask_only(seed: int, height: int, width: int) -> None:
    foreground = _ball((height, width), 0.45 * min(height, width))
    image = np.where(foreground, np.random.default_rng(seed).uniform(0.4, 0.6, (height, width)), 0).astype(np.float32)
    changed, mask = insert_lesion_2d(image, foreground, np.random.default_rng(seed))
    assert changed.dtype == np.float32
    assert mask.dtype == bool
    assert mask.any()
    assert not mask[~foreground].any()
    assert ndimage.label(mask, structure=np.ones((3, 3)))[1] == 1
    near = ndimage.binary_dilation(mask, iterations=8)
    np.testing.assert_array_equal(changed[~near], image[~near])
    assert (changed[foreground] > 0).all(), "zero would mean background"
    assert (changed[~foreground] == 0).all()


def _core_change(seed: int) -> float:
    """Mean share by which a lesion of contrast 0.25 to 0.6 changes what lies two pixels inside its mask."""
    foreground = _ball((100, 100), 45)
    image = np.where(foreground, 0.5, 0)
    changed, mask = insert_lesion_2d(image, foreground, np.random.default_rng(seed), diameter=(0.2, 0.25))
    core = ndimage.binary_erosion(mask, iterations=2)
    return abs(float(changed[core].mean()) / 0.5 - 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_contrast_stays_within_what_the_texture_adds(seed: int) -> None:
    texture = 0.2 * np.sqrt(12)  # six cosines of unit variance at their common extreme
    assert 0.25 * (1 - texture) < _core_change(seed) < 0.6 * (1 + texture)


def test_the_contrast_is_on_average_as_asked() -> None:
    assert 0.38 < np.mean([_core_change(seed) for seed in range(40)]) < 0.47


def test_the_volume_of_a_blob_is_near_that_of_its_ball() -> None:
    tissue = _ball((64, 64, 64), 30)
    volumes = [
        insert_lesions(
            tissue * 1.0, tissue, (1, 1, 1), np.random.default_rng(seed), count=(1, 1), diameter=(12, 12.001)
        )[1].sum()
        for seed in range(20)
    ]
    ball = 4 / 3 * np.pi * 6**3
    assert 0.6 * ball < np.mean(volumes) < 1.7 * ball
    assert np.std(volumes) > 0.05 * ball, "blobs must not all be alike"


def test_spacing_is_in_millimetres() -> None:
    mean_volumes = []
    for spacing in ((1.0, 1.0, 1.0), (2.0, 1.0, 0.5)):
        shape = tuple(round(48 / step) for step in spacing)
        tissue = np.ones(shape, dtype=bool)
        tissue[[0, -1]] = False
        masks = [
            insert_lesions(tissue * 1.0, tissue, spacing, np.random.default_rng(i), count=(1, 1), diameter=(10, 10.001))
            for i in range(8)
        ]
        mean_volumes.append(np.mean([mask.sum() for _, mask in masks]) * np.prod(spacing))
    assert mean_volumes[0] == pytest.approx(mean_volumes[1], rel=0.3)


def test_lesions_lie_in_tissue_off_the_rim_and_both_brighten_and_darken() -> None:
    brain = _ball((70, 70, 70), 33)
    tissue = brain & ~_ball((70, 70, 70), 8)  # a ventricle is no rim and no tissue
    volume = np.where(brain, 0.5, 0).astype(np.float32)
    changed, mask = insert_lesions(volume, tissue, (1, 1, 1), np.random.default_rng(3), count=(4, 4), diameter=(4, 10))
    assert not mask[~tissue].any()
    components, number = ndimage.label(mask)
    assert 2 <= number <= 4
    signs = {np.sign(changed[components == i].mean() - 0.5) for i in range(1, number + 1)}
    assert signs == {-1.0, 1.0}
    depth = ndimage.distance_transform_edt(brain)
    for centre in ndimage.center_of_mass(mask, components, range(1, number + 1)):
        assert depth[tuple(np.round(centre).astype(int))] > 2


def test_dark_regions_only_get_brighter() -> None:
    brain, fluid = _ball((40, 40, 40), 18), _ball((40, 40, 40), 8)
    volume = np.where(brain, 1.0, 0.0)
    volume[fluid] = 0.1
    for seed in range(8):
        changed, mask = insert_lesions(
            volume, brain, (1, 1, 1), np.random.default_rng(seed), count=(1, 1), diameter=(4, 5)
        )
        if fluid[mask].all():
            assert changed[mask].mean() > 0.2


def test_a_lesion_fits_the_smallest_foreground() -> None:
    foreground = np.zeros((5, 5), dtype=bool)
    foreground[2, 2] = True
    _, mask = insert_lesion_2d(foreground * 1.0, foreground, np.random.default_rng(0))
    np.testing.assert_array_equal(mask, foreground)


def test_the_same_seed_gives_the_same_lesions() -> None:
    tissue = _ball((40, 40, 40), 18)
    first, second = (insert_lesions(tissue * 1.0, tissue, (1, 1, 1), np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_unusable_input_is_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="must be 2D arrays of one shape"):
        insert_lesion_2d(np.ones((4, 5)), np.ones((5, 4)), rng)
    with pytest.raises(ValueError, match="must be 3D arrays of one shape"):
        insert_lesions(np.ones((4, 5)), np.ones((4, 5)), (1, 1, 1), rng)
    with pytest.raises(ValueError, match="must not be empty"):
        insert_lesion_2d(np.ones((4, 5)), np.zeros((4, 5)), rng)
    with pytest.raises(ValueError, match="`spacing` must be three positive numbers"):
        insert_lesions(np.ones((4, 4, 4)), np.ones((4, 4, 4)), (1, 0, 1), rng)
    with pytest.raises(ValueError, match=r"`count` must be two increasing numbers from 1 on, got \(0, 2\)"):
        insert_lesions(np.ones((4, 4, 4)), np.ones((4, 4, 4)), (1, 1, 1), rng, count=(0, 2))
