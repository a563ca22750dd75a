# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.handlers.regions import compute_regions
from monai_dpmm_ad.label.severity import (
    FACTORS,
    LEVEL_NAMES,
    compute_levels,
    compute_region_levels,
    draw_levels,
    draw_region_levels,
)
from monai_dpmm_ad.normative import RegionCalibration
from monai_dpmm_ad.ops.components import remove_small


@pytest.fixture
def calibration() -> Calibration:
    fitted = Calibration()
    generator = torch.Generator().manual_seed(0)
    for number in range(120):
        healthy = torch.rand(20_000, generator=generator) + 0.01
        fitted.update(healthy, healthy > 0, image_score=number / 120)
    fitted.finish()
    return fitted


def test_levels_are_reached_at_their_rates(calibration: Calibration) -> None:
    levels = compute_levels(calibration, 0.05)
    assert [level.level for level in levels] == list(LEVEL_NAMES.values()) == [1, 2, 3]
    assert [level.rate for level in levels] == pytest.approx([0.05 * factor for factor in FACTORS])
    healthy = torch.rand(1_000_000, generator=torch.Generator().manual_seed(1)).numpy() + 0.01
    label_map = draw_levels(healthy, [level.threshold for level in levels])
    for level in levels:
        assert (label_map >= level.level).mean() <= level.rate * 1.2
    assert (label_map >= 1).mean() == pytest.approx(0.05, rel=0.2)
    assert [level.guaranteed for level in levels] == [True, False, False]  # 120 scans: 1 % and no less


@given(st.integers(1, 60), st.booleans(), st.floats(0.001, 0.5), st.floats(0.001, 0.5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_levels_are_nested_whatever_the_number_of_scans(
    number: int, held_out: bool, one: float, two: float, seed: int
) -> None:
    """A higher level asks for more, and so does each level of a lower rate."""
    generator = torch.Generator().manual_seed(seed)
    fitted = Calibration()
    for score in range(number):
        fitted.update(torch.rand(50, generator=generator) + 0.01, None, image_score=float(score))
    fitted.finish(held_out)
    strict, loose = ([level.threshold for level in compute_levels(fitted, rate)] for rate in sorted((one, two)))
    assert strict == sorted(strict)
    assert loose == sorted(loose)
    assert all(low >= high for low, high in zip(strict, loose, strict=True))


@given(
    st.lists(st.lists(st.floats(3.1, 50), max_size=4), min_size=1, max_size=120),
    st.lists(st.floats(3.25, 60, width=32), min_size=2, max_size=6, unique=True).map(sorted),
)
@settings(max_examples=60, deadline=None)
def test_a_region_with_a_higher_peak_has_no_lower_level(healthy: list[list[float]], peaks: list[float]) -> None:
    calibration = RegionCalibration()
    for number, statistics in enumerate(healthy):
        calibration.update(str(number), np.array(statistics))
    calibration.finish()
    scores = np.zeros((2 * len(peaks), 3), np.float32)
    scores[::2, 1] = peaks
    regions = compute_regions(scores > 0, scores, calibration=calibration)
    reached = draw_region_levels(regions, scores.shape, compute_region_levels(calibration))[::2, 1].tolist()
    assert reached == sorted(reached)
    assert min(reached) >= 1


maps = hnp.arrays(np.float32, (4, 5, 3), elements=st.floats(0, 8, width=32))


@given(maps, st.lists(st.floats(0, 8), min_size=3, max_size=3).map(sorted))
def test_a_voxel_has_a_level_exactly_where_it_exceeds_the_threshold(values: np.ndarray, thresholds: list) -> None:
    levels = draw_levels(values, thresholds)
    for number, threshold in enumerate(thresholds, start=1):
        assert np.array_equal(levels >= number, torch.as_tensor(values).numpy() > np.float32(threshold))


@given(hnp.arrays(np.uint8, (6, 5, 4), elements=st.integers(0, 3)), st.floats(0, 60))
def test_what_stays_is_what_the_table_of_regions_lists(levels: np.ndarray, min_size: float) -> None:
    affine = np.diag([1.5, 2.0, 1.0, 1.0])
    before = levels.copy()
    kept = remove_small(levels, 3.0, min_size)
    assert np.array_equal(levels, before)
    assert set(np.unique(kept[kept != levels])) <= {0}
    listed = compute_regions(levels > 0, levels.astype(np.float32), affine, min_size).listed
    assert (kept > 0).sum() == sum(region.num_voxels for region in listed)


def test_a_region_has_the_level_of_its_p_value() -> None:
    calibration = RegionCalibration()
    for number in range(99):
        calibration.update(str(number), np.array([float(number)]))
    calibration.finish()
    scores = np.zeros((3, 9, 9), np.float32)
    scores[0, 0, :2], scores[1, 4, 4], scores[2, 8, 8] = [50, 20], 96, 1000  # p-values 0.5, 0.04 and 0.01
    regions = compute_regions(scores > 0, scores, np.eye(4), calibration=calibration)
    levels = compute_region_levels(calibration)
    assert [(level.level, level.p_value, level.guaranteed) for level in levels] == [
        (1, 1.0, True),
        (2, 0.05, True),
        (3, 0.01, True),
    ]
    drawn = draw_region_levels(regions, scores.shape, levels)
    assert [int(drawn[0, 0, 1]), int(drawn[1, 4, 4]), int(drawn[2, 8, 8])] == [1, 2, 3]
    assert np.array_equal(drawn > 0, scores > 0)
    few = RegionCalibration()
    few.update("one", np.array([5.0]))
    few.finish()
    assert [level.guaranteed for level in compute_region_levels(few)] == [True, False, False]
