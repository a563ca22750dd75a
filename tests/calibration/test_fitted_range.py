# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.calibration.fitted_range import FALSE_MARKS, FittedRange, describe_own


def _draw(count: int, seed: int) -> list[list[float]]:
    return (np.random.default_rng(seed).standard_t(3, (count, 3)) * 0.1).tolist()


def test_p_values_of_scans_like_those_are_uniform() -> None:
    values = []
    for seed in range(300):
        *held_out, new = _draw(20, seed)
        reach = FittedRange()
        reach.fit(held_out)
        values.append(reach.p_value(new))
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(values) <= level + 1e-9) == pytest.approx(level, abs=0.05)


def _share_marked(count: int, draw: Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]) -> float:
    rng, reach = np.random.default_rng(count), FittedRange()
    marked = 0
    for _ in range(1500):
        *held_out, new = draw(rng, (count + 1, 3)).tolist()
        reach.fit(held_out)
        marked += reach.judge(new) is not None
    return marked / 1500


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 18, 19, 26, 49])
def test_of_healthy_scans_no_more_than_the_stated_share_is_marked_however_few_there_are(count: int) -> None:
    error = 3 * np.sqrt(FALSE_MARKS * (1 - FALSE_MARKS) / 1500)
    assert _share_marked(count, lambda rng, size: rng.normal(size=size)) <= FALSE_MARKS
    assert _share_marked(count, lambda rng, size: rng.standard_t(2, size)) <= FALSE_MARKS + error


def test_with_nineteen_or_more_three_spreads_are_enough() -> None:
    for count in (19, 25):
        rows = np.linspace(-1, 1, count)[:, None] * [0.1, 0.0, 0.0] + 0.5
        reach = FittedRange()
        reach.fit(rows.tolist())
        spread = 1.4826 * np.median(np.abs([*rows[:, 0] - 0.5, 3]))
        assert reach.judge([0.5 + 3.2 * spread, 0.5, 0.5]) is not None
        assert reach.judge([0.5 + 2.8 * spread, 0.5, 0.5]) is None


@pytest.mark.parametrize(("column", "words"), [(0, "too high"), (1, "varies"), (2, "registration")])
@pytest.mark.parametrize("count", [4, 25])
def test_a_scan_beyond_all_others_is_marked_and_told_why(column: int, words: str, count: int) -> None:
    reach = FittedRange()
    reach.fit(_draw(count, 0))
    far = np.zeros(3)
    far[column] = 9.0
    assert words in str(reach.judge(far.tolist()))
    assert reach.judge((-far).tolist()) is None  # nothing is wrong with a map that is lower


def test_nothing_is_known_before_a_fit_and_of_older_models() -> None:
    reach = FittedRange()
    assert reach.judge([9.0, 9.0, 9.0]) is None
    assert reach.p_value([9.0, 9.0, 9.0]) == 1
    reach.fit(_draw(5, 0))
    reach.load_state_dict({})
    assert reach.judge([9.0, 9.0, 9.0]) is None
    reach.fit([])
    assert int(reach.num_scans) == 0


def test_lesions_do_not_count() -> None:
    healthy = torch.linspace(0.5, 1.5, 1000)
    ill = healthy.clone()
    ill[-80:] = 50.0
    assert describe_own(ill, 0.9) == pytest.approx(describe_own(healthy, 0.9), abs=1e-6)
    assert describe_own(2 * healthy, None)[0] == pytest.approx(describe_own(healthy, 0.9)[0] + np.log(2))
    assert describe_own(healthy, None)[2] == 1


def _make_map(level: float = 1.0, seed: int = 0) -> torch.Tensor:
    """A map of 96 × 112 × 80 mm."""
    generator = torch.Generator().manual_seed(seed)
    return level * torch.rand((48, 56, 40), generator=generator) + 0.5


def test_a_large_lesion_at_one_place_has_no_say_where_a_change_of_all_places_has() -> None:
    reach = FittedRange()
    reach.fit([reach.describe(_make_map(seed=n), 0.9, [2, 2, 2]) for n in range(25)])
    ill = _make_map()
    ill[4:28, 4:28, 4:28] *= 8  # 48 mm
    assert reach.judge(reach.describe(ill, 0.9, [2, 2, 2])) is None
    assert reach.judge(describe_own(ill, 0.9)) is not None  # of the whole map it would
    assert reach.judge(reach.describe(1.5 * _make_map(), 0.9, [2, 2, 2])) is not None
    assert reach.judge(reach.describe(_make_map(2.0), 0.9, [2, 2, 2])) is not None


def test_blocks_are_measured_in_millimetres() -> None:
    fine, sizes = _make_map(), [1.0, 2.0, 2.0]
    fine[:, :, :12] *= 3
    coarse = fine[::2]
    assert describe_own(fine, 0.9, sizes) == pytest.approx(describe_own(coarse, 0.9, [2.0, 2.0, 2.0]), abs=0.03)
    assert describe_own(fine.flip(0), 0.9, sizes)[0] == pytest.approx(describe_own(fine, 0.9, sizes)[0], abs=0.03)


def test_a_model_from_before_blocks_describes_whole_maps_as_it_was_fitted() -> None:
    reach = FittedRange()
    reach.load_state_dict({"rows": reach.rows, "num_scans": reach.num_scans})
    scan = _make_map()
    scan[:10] *= 5
    assert reach.describe(scan, 0.9, [2, 2, 2]) == describe_own(scan, 0.9) != describe_own(scan, 0.9, [2, 2, 2])


@pytest.mark.parametrize("shape", [(1, 3, 3), (5, 1, 70)])
def test_maps_smaller_than_a_block_are_described_whole(shape: tuple[int, int, int]) -> None:
    scan = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    assert all(np.isfinite(describe_own(scan, None, [2, 2, 2])))
