# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Two visits: a lesion that came is new, exchanged it is gone; a scan against its own repeats is nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.heads import SHAPE, affine_of, make_head
from scipy import ndimage

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers.changes import change_statistics, find_changes
from monai_dpmm_ad.normative import RegionCalibration
from monai_dpmm_ad.normative.change import Change, compare_visits, join_deviates, match_intensities, standardize_by
from monai_dpmm_ad.normative.repeats import estimate_noise, repeat_scan
from monai_dpmm_ad.normative.visits import Visit

AFFINE = affine_of()
LESION, OTHER = (slice(16, 20), slice(18, 22), slice(13, 17)), (slice(18, 23), slice(10, 15), slice(13, 17))


def make_scan(*lesions: tuple[slice, ...], seed: int = 0, again: bool = True) -> np.ndarray:
    head = make_head(SHAPE, noise=0.2, seed=9)
    for lesion in lesions:
        head[lesion] *= 1.8
    rng = np.random.default_rng(seed)
    head = np.where(head > 0, np.maximum(head + rng.normal(0, 0.01, SHAPE), 1e-3), 0).astype(np.float32)
    return np.maximum(repeat_scan(head, AFFINE, rng), 0) if again else head


def make_visit(image: np.ndarray, name: str = "scan") -> Visit:
    """What a bundle would say that finds everything unusual which is brighter than the healthy head at its place."""
    usual = ndimage.median_filter(image, 9)
    score = np.where(image > 0, 1 + 8 * np.maximum(image - usual - 0.1, 0), 0).astype(np.float32)
    return Visit(name, image, AFFINE, score, score > 3, AFFINE)


@pytest.fixture(scope="module")
def visits() -> tuple[Visit, Visit]:
    return make_visit(make_scan(OTHER, seed=1)), make_visit(make_scan(OTHER, LESION, seed=2))


@pytest.fixture(scope="module")
def change(visits: tuple[Visit, Visit]) -> Change:
    return compare_visits(*visits)


def place(lesion: tuple[slice, ...]) -> np.ndarray:
    middle = [(part.start + part.stop - 1) / 2 for part in lesion]
    return (AFFINE @ [*middle, 1])[:3]


def test_a_lesion_that_came_is_new_and_one_that_stayed_is_nothing(change: Change) -> None:
    (one,), mask = find_changes(change)
    assert one.kind == "new"
    # Both visits have moved by a few mm and degrees; coordinates are those of the first.
    assert np.abs(np.array(one.region.centroid) - place(LESION)).max() < 10
    assert set(np.unique(mask)) == {0, 1}
    assert 64 * 125 / 2 < one.region.size < 3 * 64 * 125, "wider than the lesion: voxels at its rim changed as well"


def test_exchanging_the_visits_exchanges_new_and_gone(visits: tuple[Visit, Visit], change: Change) -> None:
    back = compare_visits(visits[1], visits[0])
    np.testing.assert_allclose(back.change, -change.change, atol=2e-2)
    (there,), (gone,) = find_changes(change)[0], find_changes(back)[0]
    assert (there.kind, gone.kind) == ("new", "gone")
    assert gone.region.peak_score == pytest.approx(there.region.peak_score, rel=1e-2)
    assert gone.region.num_voxels == pytest.approx(there.region.num_voxels, abs=2)


def test_beside_what_was_flagged_it_has_grown_or_shrunk(change: Change) -> None:
    mask = find_changes(change)[1] > 0
    near = ndimage.binary_dilation(mask, iterations=2)
    assert find_changes(replace(change, masks=(near, near)))[0][0].kind == "grown"
    assert find_changes(replace(change, masks=(near, near), change=-change.change))[0][0].kind == "shrunk"


@pytest.mark.parametrize("seed", [3, 4])
def test_a_scan_against_its_repeats_is_nothing(seed: int) -> None:
    """Resampled, moved, in another bias field and with new noise: also with a lesion that stayed."""
    before = make_visit(make_scan(OTHER, seed=10, again=False))
    assert find_changes(compare_visits(before, before))[0] == []
    after = make_visit(make_scan(OTHER, seed=seed))
    assert find_changes(compare_visits(before, after))[0] == []


def test_healthy_pairs_give_p_values_and_the_level(change: Change) -> None:
    calibration = RegionCalibration()
    for number in range(9):
        calibration.update(str(number), np.array([4.0, 3.5]))
    calibration.finish()
    (one, *_), _ = find_changes(change, calibration)
    assert one.region.p_value == 0.1
    high = RegionCalibration()
    for number in range(9):
        high.update(str(number), np.array([1e3, 900.0]))
    high.finish()
    assert find_changes(change, high)[0] == [], "healthy people change as much"
    assert change_statistics(change.change).max() == pytest.approx(one.region.peak_score)


def test_what_is_another_thing_is_refused(visits: tuple[Visit, Visit]) -> None:
    noise = np.random.default_rng(0).uniform(0.1, 1, SHAPE).astype(np.float32)
    noise[:17] = 0
    inverted = np.where(visits[0].image > 0, 2.2 - visits[0].image, 0).clip(0).astype(np.float32)
    for other in (noise, inverted):
        with pytest.raises(ScanError, match=r"second: cannot be registered to the first visit scan \(correlation"):
            compare_visits(visits[0], make_visit(other, "second"))


def test_gain_contrast_and_field_are_matched_but_not_a_change() -> None:
    before = make_head(SHAPE, noise=0.2)
    inside = before > 0
    field = np.linspace(0.9, 1.1, SHAPE[1])[None, :, None]
    after = np.where(inside, 1.1 * before * field + 0.05 * before**2, 0).astype(np.float32)
    after[LESION] += 0.8
    residual = match_intensities(before, after, inside)
    assert residual[LESION].mean() == pytest.approx(0.8, abs=0.1)
    assert np.median(np.abs(residual[inside])) < 0.02
    np.testing.assert_allclose(match_intensities(after, before, inside), -residual, atol=1e-6)


def test_differences_are_judged_among_their_like() -> None:
    rng = np.random.default_rng(0)
    spread = np.linspace(0.1, 1, 40000).reshape(40, 50, 20).astype(np.float32)
    z = standardize_by((spread * rng.normal(size=spread.shape)).astype(np.float32), spread, spread > 0, 0.01)
    assert z[:8].std() == pytest.approx(1, abs=0.08)
    assert z[-8:].std() == pytest.approx(1, abs=0.08)
    assert not standardize_by(np.zeros_like(spread), spread, spread > 0, 0.01).any(), "the least spread"


def test_both_have_to_agree() -> None:
    five, none = np.full(1, 5, np.float32), np.zeros(1, np.float32)
    assert join_deviates(five, none)[0] == join_deviates(none, five)[0] == 0
    assert join_deviates(five, five)[0] == join_deviates(-five, five)[0] == -join_deviates(five, -five)[0] > 5


def test_noise_is_found_below_anatomy() -> None:
    head = 100 * make_head((68, 80, 60))
    noisy = np.where(head > 0, head + np.random.default_rng(0).normal(0, 4, head.shape), 0).astype(np.float32)
    assert estimate_noise(noisy) == pytest.approx(4, rel=0.1)
    assert estimate_noise(head) < 0.5
    assert estimate_noise(np.zeros_like(head)) == 0
