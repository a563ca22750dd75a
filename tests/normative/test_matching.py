# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from helpers.heads import SHAPE, affine_of, make_head
from numpy.typing import NDArray

from monai_dpmm_ad.normative import matching
from monai_dpmm_ad.normative.intensity import polynomials
from monai_dpmm_ad.normative.lattice import resample
from monai_dpmm_ad.normative.matching import Match, match_intensity

Array = NDArray[np.float32]
LESION = (slice(10, 14), slice(20, 24), slice(12, 16))
LEVEL = 0.3


def _other_scanner(image: Array) -> Array:
    """Less contrast and a cubic bias field."""
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij"), -1)
    weights = 0.12 * np.random.default_rng(3).standard_normal(20)
    field = np.exp((polynomials(axes.reshape(-1, 3), 3) @ weights).reshape(SHAPE))
    return (LEVEL * image**0.6 * field).astype(np.float32)


def _match(image: Array) -> Match | None:
    expected = resample(make_head(), affine_of(), 5.0)
    scan = resample(image, affine_of(), 5.0)
    inside = scan.weight > 0.5
    level = float(np.median(scan.values[inside]))
    scan = type(scan)(scan.values / np.float32(level), scan.weight, scan.lattice)
    mean = expected.values / np.float32(np.median(expected.values[inside]))
    return match_intensity(scan, level, mean, np.full_like(mean, 0.1))


def test_field_and_contrast_are_taken_away_and_a_lesion_stays() -> None:
    healthy = make_head(noise=0.05, seed=1)
    ill = healthy.copy()
    ill[LESION] *= 1.7
    image = _other_scanner(ill)
    match = _match(image)
    assert match is not None
    changed = match.apply(image, affine_of())
    inside = healthy > 0
    wanted = ill * np.float32(np.median(changed[inside]) / np.median(ill[inside]))
    usual = inside.copy()
    usual[LESION] = False

    def error(values: Array) -> float:
        scaled = values * np.float32(np.median(wanted[usual]) / np.median(values[usual]))
        return float(np.abs(scaled - wanted)[usual].mean() / wanted[usual].mean())

    assert error(changed) < 0.4 * error(image)
    assert error(changed) < 0.06
    around = np.median(changed[usual])
    assert np.median(changed[LESION]) > 1.4 * around
    assert np.median(changed[inside]) == pytest.approx(np.median(image[inside]), rel=0.05)  # its level stays
    assert (changed[~inside] == 0).all()
    assert changed[inside].min() >= 1e-3
    assert changed.max() <= 1


def test_slabs_are_as_good_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _other_scanner(make_head(noise=0.05))
    match = _match(image)
    assert match is not None
    whole = match.apply(image, affine_of())
    monkeypatch.setattr(matching, "_SLAB", 3 * image[0].size)
    np.testing.assert_allclose(match.apply(image, affine_of()), whole, atol=1e-5)


def test_an_unchanged_scan_changes_little() -> None:
    image = (LEVEL * make_head(noise=0.05, seed=2)).astype(np.float32)
    match = _match(image)
    assert match is not None
    assert np.abs(match.apply(image, affine_of()) - image).mean() < 0.03 * LEVEL


@pytest.mark.parametrize("kind", ["inverted", "noise", "small"])
def test_what_does_not_agree_is_left_alone(kind: str) -> None:
    head = make_head()
    image = np.where(head > 0, np.random.default_rng(0).uniform(0.1, 1, SHAPE), 0).astype(np.float32)
    if kind == "inverted":
        image = np.where(head > 0, 2.0 - head, 0).astype(np.float32)
    if kind == "small":
        image = np.zeros(SHAPE, np.float32)
        image[15:18, 18:21, 13:16] = 1
    assert _match(image) is None


def test_contrast_goes_through_the_landmarks_and_on_beyond() -> None:
    match = _match(_other_scanner(make_head()))
    assert match is not None
    own, fitted = match.own, match.fitted
    assert own[0] == fitted[0] == 0
    assert (np.diff(own) > 0).all()
    assert (np.diff(fitted) > 0).all()
    np.testing.assert_allclose(match.bend(own.astype(np.float32)), fitted, rtol=1e-5)
    step = match.bend(np.array([own[-1] + 1], np.float32))[0] - fitted[-1]
    assert step == pytest.approx(fitted[-1] / own[-1], rel=1e-4)
