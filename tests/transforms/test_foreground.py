# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The foreground of scans with every kind of background."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from monai_dpmm_ad.transforms import compute_foreground


def _ellipsoid(shape=(60, 72, 50), scale=0.36, center=0.5) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij"), axis=-1)
    return np.linalg.norm((grid - center) / scale, axis=-1) < 1


def _head() -> tuple[np.ndarray, np.ndarray]:
    """Tissue with dark ventricles, a dark skull and a bright scalp; the whole and its intensities."""
    whole, skull, brain, ventricles = (_ellipsoid(scale=s) for s in (0.42, 0.38, 0.34, 0.1))
    values = np.where(whole, 130.0, 0.0)
    values[skull], values[brain], values[ventricles] = 4.0, 100.0, 0.0
    return whole, values


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def _mask(values: np.ndarray) -> np.ndarray:
    return compute_foreground(torch.from_numpy(values.astype(np.float32))[None])[0].numpy()


def test_skull_stripped_is_exact_and_its_ventricles_are_filled():
    brain = _ellipsoid()
    rng = np.random.default_rng(0)
    values = np.where(brain, 100 + 10 * rng.standard_normal(brain.shape), 0.0)
    values[_ellipsoid(scale=0.1)] = 0.0
    assert np.array_equal(_mask(values), brain)


def test_slightly_negative_rim_is_background():
    brain = _ellipsoid()
    rim = ndimage.binary_dilation(brain) & ~brain
    values = np.where(brain, 100.0, 0.0)
    values[rim] = -2.0
    values[10, 30, 25] += 1
    assert _dice(_mask(values), brain) > 0.999


@pytest.mark.parametrize("sigma", [1.0, 6.0, 12.0])
def test_whole_head_in_rician_noise(sigma):
    whole, values = _head()
    rng = np.random.default_rng(0)
    noisy = np.hypot(values + rng.normal(0, sigma, values.shape), rng.normal(0, sigma, values.shape))
    assert _dice(_mask(noisy), whole) > 0.96


def test_bias_field():
    whole, values = _head()
    noisy = np.abs(values + np.random.default_rng(0).normal(0, 3, values.shape))
    noisy *= np.exp(np.linspace(-0.7, 0.7, values.shape[0]))[:, None, None]
    assert _dice(_mask(noisy), whole) > 0.97


def test_ct_with_padding_and_table():
    whole, values = _head()
    ct = np.where(whole, values * 0.3, -1000.0) + np.random.default_rng(0).normal(0, 15, values.shape)
    ct[:, 70:] = 200.0  # the table
    ct[:3] = -3024.0
    table_free = whole.copy()
    assert _dice(_mask(ct), table_free) > 0.98


def test_jpeg_slice_with_text_frame_and_noise():
    whole, values = _head()
    picture = np.kron(values[:, :, 25], np.ones((3, 3)))
    want = np.kron(whole[:, :, 25], np.ones((3, 3))) > 0
    picture = np.clip(picture + np.random.default_rng(0).normal(0, 2, picture.shape), 0, 255)
    picture[0], picture[-1], picture[:, 0], picture[:, -1] = 255, 255, 255, 255
    picture[5:12, 5:30:2] = 255
    assert _dice(_mask(picture), want) > 0.97


def test_ruler_that_touches_the_head_is_cut_off():
    whole, values = _head()
    picture = np.kron(values[:, :, 25], np.ones((3, 3)))
    picture[90, :] = 255  # one pixel wide, from edge to edge
    assert _dice(_mask(picture), np.kron(whole[:, :, 25], np.ones((3, 3))) > 0) > 0.98


def test_noisy_field_of_view_in_black_padding():
    whole, values = _head()
    rng = np.random.default_rng(0)
    picture = np.hypot(values[:, :, 25] + rng.normal(0, 9, (60, 72)), rng.normal(0, 9, (60, 72)))
    padded = np.zeros((100, 112))
    padded[20:80, 20:92] = picture
    want = np.zeros(padded.shape, bool)
    want[20:80, 20:92] = whole[:, :, 25]
    assert _dice(_mask(padded), want) > 0.95


def test_tissue_that_fills_the_field_of_view_is_nearly_all_foreground():
    rng = np.random.default_rng(0)
    tissue = ndimage.gaussian_filter(rng.normal(0, 1, (64, 64)), 6)
    picture = 100 + 400 * tissue
    assert _mask(picture).mean() > 0.95


def test_parts_smaller_than_the_share_are_left_out():
    values = np.zeros((80, 80))
    values[10:40, 10:40], values[50:70, 50:70], values[5:8, 60:63] = 100, 80, 100
    values[20, 20] = 101
    mask = _mask(values)
    assert mask[10:40, 10:40].all()
    assert mask[50:70, 50:70].all()
    assert not mask[5:8, 60:63].any()
    assert not compute_foreground(torch.from_numpy(values)[None].float(), min_share=0.9)[0, 50:70, 50:70].any()


@given(scale=st.floats(1e-3, 1e4), offset=st.floats(0, 100), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_scale_and_offset_do_not_move_the_mask(scale, offset, seed):
    brain = _ellipsoid((24, 28, 20))
    values = np.where(brain, 100 + 5 * np.random.default_rng(seed).standard_normal(brain.shape), 0.0)
    assert np.array_equal(_mask(values), _mask(values * scale + offset * scale))


@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    seed=st.integers(0, 1000),
    sparse=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_any_image_that_varies_has_a_foreground(shape, seed, sparse):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * (rng.random(shape) < (0.05 if sparse else 1.0))
    values.flat[0] = 5.0
    if values.min() == values.max():
        values = np.append(values, 0.0)[None]
    mask = _mask(values)
    assert mask.shape == values.shape
    assert mask.any()


def test_one_bright_voxel_in_a_large_volume_is_found():
    values = np.zeros((150, 150, 150), np.float32)
    values[71, 33, 101] = 1
    assert np.array_equal(_mask(values), values > 0)


def test_constant_or_misshapen_image():
    with pytest.raises(ValueError, match="`image` must not be constant"):
        compute_foreground(torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match=r"`image` must have shape .*got \(2, 8, 8\)"):
        compute_foreground(torch.ones(2, 8, 8))


# ------------------------------------------------------------------------------------------------ kinds that were met


def _brain(shape: tuple[int, int, int] = (40, 48, 30), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A brain in a volume, and its mask."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    mask = np.hypot(np.hypot(grid[0] / 0.8, grid[1] / 0.85), grid[2] / 0.9) < 1
    tissue = 300 + 200 * (np.sin(4 * grid[0]) > 0) + generator.normal(0, 40, shape)
    return tissue.astype(np.float32), mask


@pytest.mark.parametrize("shift", [0.0, 0.5, -0.5])
def test_a_scan_standardised_inside_its_mask_keeps_its_whole_brain(shift: float) -> None:
    tissue, mask = _brain()
    standardised = np.where(mask, (tissue - tissue[mask].mean()) / tissue[mask].std() + shift, 0)
    assert np.array_equal(compute_foreground(torch.from_numpy(standardised[None]))[0].numpy(), mask)


def test_a_standardised_scan_with_another_background_keeps_its_whole_brain() -> None:
    tissue, mask = _brain()
    standardised = np.where(mask, (tissue - tissue[mask].mean()) / tissue[mask].std(), 0.3)
    assert np.array_equal(compute_foreground(torch.from_numpy(standardised[None]))[0].numpy(), mask)


@pytest.mark.parametrize("slices", [2, 3, 5, 6, 8, 12])
@pytest.mark.parametrize("dim", [0, 1])
def test_few_slices_of_any_plane_show_their_head_whatever_specks_there_are(slices: int, dim: int) -> None:
    generator = np.random.default_rng(0)
    tissue, mask = _brain((48, 60, 40))
    volume = np.pad(np.where(mask, tissue, 0), ((0, 0), (12, 12), (12, 12)))
    mask = np.pad(mask, ((0, 0), (12, 12), (12, 12)))
    volume = volume + np.abs(generator.normal(0, 4, volume.shape))
    start = volume.shape[dim] // 2
    part, truth = (np.take(array, range(start, start + slices), dim) for array in (volume, mask))
    specked = part.copy()
    corner = specked[:2, :2, :2] if dim else specked[:, :2, :2]
    corner[...] = 450
    for image in (part, specked):
        found = compute_foreground(torch.from_numpy(image[None].astype(np.float32)))[0].numpy()
        assert (found & truth).sum() > 0.98 * truth.sum()
        assert (found & ~truth).sum() < 0.02 * truth.sum()


@pytest.mark.parametrize("touching", [False, True])
@pytest.mark.parametrize("thickness", [2, 5])
def test_what_holds_a_head_in_ct_is_no_foreground(touching: bool, thickness: int) -> None:
    size = 160
    y, x = np.mgrid[:size, :size] - size / 2
    head = np.hypot(x / 45, y / 55) < 1
    inner = 56.0 if touching else 62.0
    radius = np.hypot(x, y)
    holder = (radius >= inner) & (radius < inner + thickness) & (y > 10) & ~head
    table = (y > 72) & (y < 72 + thickness)
    volume = np.where(head, 40.0, -1000.0)
    volume[holder | table] = 150
    volume = np.repeat(volume.T[:, :, None], 8, axis=2) + np.random.default_rng(0).normal(0, 8, (size, size, 8))
    found = compute_foreground(torch.from_numpy(volume[None].astype(np.float32)))[0].numpy()
    truth = np.repeat(head.T[:, :, None], 8, axis=2)
    assert (found & truth).sum() > 0.98 * truth.sum()
    assert (found & ~truth).sum() < 0.03 * truth.sum()


def test_arms_beside_a_body_in_ct_are_foreground() -> None:
    y, x = np.mgrid[:120, :200] - np.array([60, 100])[:, None, None]
    body, arm = np.hypot(x / 50, y / 40) < 1, np.hypot((x - 76) / 17, y / 17) < 1
    volume = np.repeat(np.where(body | arm, 40.0, -1000.0).T[:, :, None], 6, axis=2)
    volume += np.random.default_rng(0).normal(0, 8, volume.shape)
    found = compute_foreground(torch.from_numpy(volume[None].astype(np.float32)))[0].numpy()
    assert found[176, 60, 3]
    assert found.sum() > 0.98 * 6 * (body | arm).sum()
