# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Intensity scales that lesions cannot move."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import (
    FOREGROUND_FLOOR,
    ScaleIntensityForeground,
    ScaleIntensityForegroundd,
    scale_foreground,
)
from monai_dpmm_ad.transforms.intensity import CT_WINDOWS, INTENSITY_METHODS

SHAPE = (1, 24, 28, 20)


def _brain(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey matter around 80, white matter around 120, fluid around 20, and the mask."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice([20.0, 80.0, 120.0], p=[0.1, 0.5, 0.4], size=SHAPE) + rng.normal(0, 4, SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[:, 3:-3, 4:-2, 2:-4] = True
    return torch.from_numpy(np.where(mask, tissue, 0.0)).float(), torch.from_numpy(mask)


@pytest.mark.parametrize("method", INTENSITY_METHODS)
def test_background_is_zero_and_foreground_is_not(method):
    image, mask = _brain()
    scaled = scale_foreground(image, mask, method)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled > 0, mask)
    assert float(scaled[mask].min()) >= FOREGROUND_FLOOR
    assert float(scaled.max()) <= 1


def test_median_becomes_the_target():
    image, mask = _brain()
    assert float(scale_foreground(image, mask)[mask].median()) == pytest.approx(1 / 3, abs=1e-6)
    assert float(scale_foreground(image, mask, target=0.5)[mask].median()) == pytest.approx(0.5, abs=1e-6)


def test_white_matter_mode_becomes_the_target():
    image, mask = _brain()
    scaled = scale_foreground(image, mask, "white_matter")
    assert float(scaled[mask][image[mask] > 105].median()) == pytest.approx(1 / 3, rel=0.03)


def test_percentiles_become_zero_and_one():
    image, mask = _brain()
    scaled = scale_foreground(image, mask, "percentile", percentiles=(10, 90))
    low, high = np.quantile(image[mask].numpy(), [0.1, 0.9])
    inside = mask & (image > low) & (image < high)
    want = ((image[inside] - low) / (high - low)).clamp_min(FOREGROUND_FLOOR)
    torch.testing.assert_close(scaled[inside], want, atol=1e-5, rtol=1e-4)


def test_ct_window():
    image = torch.tensor([[[-1000.0, 0.0, 20.0, 40.0, 60.0, 80.0, 900.0]]])
    scaled = scale_foreground(image, image > -500, "ct_window", center=40, width=80)
    torch.testing.assert_close(scaled[0, 0], torch.tensor([0, FOREGROUND_FLOOR, 0.25, 0.5, 0.75, 1, 1]))


@given(
    method=st.sampled_from(["median", "white_matter", "percentile"]),
    scale=st.floats(1e-3, 1e4),
    offset=st.floats(-50, 50),
)
@settings(deadline=None, max_examples=25)
def test_scale_and_offset_of_the_scanner_do_not_matter(method, scale, offset):
    image, mask = _brain()
    moved = ((image.double() + offset) * scale).float()
    torch.testing.assert_close(
        scale_foreground(moved, mask, method), scale_foreground(image, mask, method), atol=5e-3, rtol=5e-3
    )


@given(brightness=st.floats(0, 1e4), seed=st.integers(0, 20), share=st.floats(0.001, 0.05))
@settings(deadline=None, max_examples=30)
@pytest.mark.parametrize(("method", "tolerance"), [("median", 0.025), ("white_matter", 0.02)])
def test_a_lesion_of_one_twentieth_moves_nothing(method, tolerance, brightness, seed, share):
    image, mask = _brain()
    lesion = mask & (torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < share)
    ill = torch.where(lesion, torch.tensor(brightness), image)
    before, after = (scale_foreground(i, mask, method, target=0.2) for i in (image, ill))
    healthy = mask & ~lesion & (before > 0.1)
    ratio = after[healthy] / before[healthy]
    assert float((ratio - 1).abs().max()) < tolerance


def test_transform_finds_the_foreground_and_keeps_the_meta_data():
    image, mask = _brain()
    scan = MetaTensor(image, meta={"name": "a"})
    item = ScaleIntensityForegroundd()({"image": scan, "label": mask})
    assert torch.equal(item["image"].as_tensor() > 0, mask)
    assert item["image"].meta["name"] == "a"
    assert torch.equal(item["image"].affine, scan.affine)
    plain = ScaleIntensityForeground()(image)
    assert not isinstance(plain, MetaTensor)
    assert torch.equal(plain, item["image"].as_tensor())
    assert torch.equal(scan.as_tensor(), image)  # the input is as it was


def test_given_mask_is_used():
    image, mask = _brain()
    smaller = mask.clone()
    smaller[:, :10] = False
    item = ScaleIntensityForegroundd(mask_key="brain")({"image": image, "brain": smaller.float()})
    assert torch.equal(item["image"] > 0, smaller)
    item = ScaleIntensityForegroundd(mask_key="brain")({"image": image})
    assert torch.equal(item["image"] > 0, mask)
    assert ScaleIntensityForegroundd(allow_missing_keys=True)({}) == {}


def test_foreground_that_is_mostly_background_by_value_still_scales():
    image = torch.zeros(1, 10, 10)
    image[0, :2] = 5
    scaled = scale_foreground(image, torch.ones_like(image, dtype=torch.bool))
    assert float(scaled[0, 0, 0]) == 1
    assert float(scaled[0, 5, 5]) == pytest.approx(FOREGROUND_FLOOR)


@pytest.mark.parametrize("method", ["percentile", "white_matter"])
def test_two_values_with_one_rare(method):
    image = torch.zeros(1, 40, 40)
    image[0, :20] = 5
    image[0, 0, 0] = 6
    scaled = scale_foreground(image, image > 0, method)
    assert torch.isfinite(scaled).all()
    assert float(scaled.max()) <= 1


def test_empty_and_constant_foreground():
    image, mask = _brain()
    with pytest.raises(ValueError, match="the foreground is empty"):
        scale_foreground(image, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="the foreground is constant: every voxel in it is 7"):
        scale_foreground(mask.float() * 7, mask)
    with pytest.raises(ValueError, match=r"`mask` must have the image's shape"):
        scale_foreground(image, mask[:, 1:])
    flat = MetaTensor(mask.float(), meta={"filename_or_obj": "/data/flat.nii"})
    with pytest.raises(ScanError, match=r"^/data/flat\.nii: the foreground is constant: every voxel in it is 1$"):
        ScaleIntensityForeground()(flat)


def test_bad_options():
    image, mask = _brain()
    with pytest.raises(ValueError, match=r"`method` must be one of .*Did you mean 'median'"):
        ScaleIntensityForeground(method="medain")
    with pytest.raises(ValueError, match="`method` must be one of"):
        scale_foreground(image, mask, "mean")
    with pytest.raises(ValueError, match="`target` must lie in"):
        ScaleIntensityForeground(target=1.5)
    with pytest.raises(ValueError, match="`percentiles` must be two rising numbers"):
        ScaleIntensityForeground(percentiles=(99, 1))
    with pytest.raises(ValueError, match="`width` must be positive, got 0"):
        ScaleIntensityForeground(width=0)


def test_standardising_inside_a_mask_hardly_moves_the_scaled_values() -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(300, 60, 6000), generator.normal(500, 40, 5900), np.full(100, 3.0)])
    image = torch.zeros(1, 200, 100)
    image[0, :120] = torch.from_numpy(generator.permutation(values).reshape(120, 100).astype(np.float32))
    mask = image > 0
    inside = image[mask]
    standardised = torch.where(mask, (image - inside.mean()) / inside.std(), 0)
    plain, again = (scale_foreground(img, mask) for img in (image, standardised))
    assert torch.equal(plain > 0, again > 0)
    assert float((plain - again).abs().max()) < 0.02


@pytest.mark.parametrize("method", CT_WINDOWS)
def test_windows_of_ct_by_name(method: str) -> None:
    center, width = CT_WINDOWS[method]
    image = torch.linspace(center - width, center + width, 2000).reshape(1, 40, 50)
    mask = torch.ones_like(image, dtype=torch.bool)
    named = scale_foreground(image, mask, method)
    assert torch.equal(named, scale_foreground(image, mask, "ct_window", center=center, width=width))
    assert float(named[0].flatten()[1000]) == pytest.approx(0.5, abs=0.01)


def test_the_facts_of_a_scan_are_kept(tmp_path: Path) -> None:
    image = torch.zeros(1, 10, 12, 8)
    image[:, 2:8, 3:9, 1:7] = torch.linspace(100, 200, 216).reshape(1, 6, 6, 6)
    scan = MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 3.0, 5.0, 1.0])), meta={"modality": "MR"})
    facts = json.loads(ScaleIntensityForeground()(scan).meta["facts"])
    assert (facts["spatial_dims"], facts["modality"], facts["sizes"]) == (3, "MR", [2.0, 3.0, 5.0])
    assert facts["range"] == pytest.approx([101, 150, 199], abs=0.1)
    assert facts["volume"] == pytest.approx(216 * 30 / 1000)
    ct = MetaTensor(torch.where(image > 0, image, -1000.0), affine=torch.eye(4))
    assert json.loads(ScaleIntensityForeground()(ct).meta["facts"])["modality"] == "CT"


@pytest.mark.parametrize("code", [-500.0, -1000.0, -32768.0])
def test_a_code_in_the_background_is_no_intensity(code: float) -> None:
    image, mask = _brain()
    assert torch.equal(scale_foreground(image.masked_fill(~mask, code), mask), scale_foreground(image, mask))


def test_a_code_around_a_standardised_brain_is_no_intensity() -> None:
    image, mask = _brain()
    values = image[mask]
    standardised = torch.where(mask, (image - values.mean()) / values.std(), 0.0)
    coded = standardised.masked_fill(~mask, -1000.0)
    assert torch.equal(scale_foreground(coded, mask), scale_foreground(standardised, mask))


@pytest.mark.parametrize(("gain", "offset"), [(1.0, -60.0), (2.0, -1.0), (1.0, -0.5)])
def test_an_offset_is_no_code(gain: float, offset: float) -> None:
    image, mask = _brain()
    flat = torch.where(mask, 0.6 + 0.4 * image / image.max(), 0.0)  # as of proton density: nothing is dark
    assert torch.allclose(scale_foreground(gain * flat + offset, mask), scale_foreground(flat, mask), atol=1e-5)
