# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.normative.regions import RegionCalibration, keep_regions, measure_regions, regions_scans_needed


def _draw(rng: np.random.Generator) -> NDArray[np.float64]:
    """Statistics of a healthy scan's regions: their number and size differ between scans."""
    return rng.exponential(rng.gamma(2.0), rng.poisson(rng.gamma(2.0, 2.0)))


def _calibrate(rng: np.random.Generator, number: int, held_out: bool = True) -> RegionCalibration:
    calibration = RegionCalibration()
    for index in range(number):
        calibration.update(f"scan{index}", _draw(rng))
    calibration.finish(held_out)
    return calibration


def test_regions_are_measured_by_their_peak() -> None:
    scores = np.zeros((6, 6, 6), np.float32)
    scores[1, 1, 1:5] = 3.0
    scores[4, 4, 4] = 5.0
    labels, statistics, box = measure_regions(scores, 2.0)
    assert sorted(statistics.tolist()) == [3.0, 5.0]
    assert labels.shape == tuple(part.stop - part.start for part in box)
    np.testing.assert_array_equal(np.argwhere(keep_regions(scores, 2.0, 3.0)), [[4, 4, 4]])
    assert keep_regions(scores, 2.0, 2.9).sum() == 5
    assert keep_regions(scores, 9.0, 0.0).sum() == 0


def test_p_value_is_valid_for_a_healthy_scan() -> None:
    rng = np.random.default_rng(0)
    p = []
    for _ in range(1500):
        calibration, new = _calibrate(rng, 19), _draw(rng)
        p.append(calibration.p_values(new).min() if new.size else 1.0)
    for level in (0.05, 0.1, 0.3):
        assert np.mean(np.array(p) <= level) <= level + 3 * np.sqrt(level * (1 - level) / len(p))
    assert np.mean(np.array(p) <= 0.1) > 0.06  # and it is not valid by saying nothing


@pytest.mark.parametrize(("number", "false_regions"), [(25, 1.0), (40, 0.5), (7, 1.0), (5, 2.0)])
def test_promise_of_false_regions_holds(number: int, false_regions: float) -> None:
    rng = np.random.default_rng(1)
    counts = []
    for _ in range(1000):
        calibration, new = _calibrate(rng, number), _draw(rng)
        assert calibration.guaranteed(false_regions)
        counts.append(min((new > calibration.least_statistic(false_regions)).sum(), calibration.cap))
    assert np.mean(counts) <= false_regions + 3 * np.std(counts) / np.sqrt(len(counts))
    assert np.mean(counts) > 0.4 * false_regions


def test_too_few_or_fitted_scans_promise_nothing() -> None:
    rng = np.random.default_rng(2)
    assert not _calibrate(rng, 2).guaranteed(1.0)
    assert not _calibrate(rng, 50, held_out=False).guaranteed(1.0)
    for allowed in (0.1, 0.3, 0.5, 1.0, 2.0, 7.5):
        enough = regions_scans_needed(allowed)
        assert all(_calibrate(rng, number).guaranteed(allowed) for number in (enough, enough + 1, enough + 20))
        assert enough == 1 or not _calibrate(rng, enough - 1).guaranteed(allowed)


@pytest.mark.parametrize("number", [1, 2, 5, 7, 14, 15, 40])
def test_fewer_false_regions_never_flag_more(number: int) -> None:
    calibration = _calibrate(np.random.default_rng(number), number)
    least = [calibration.least_statistic(allowed) for allowed in np.linspace(0.01, 7.99, 400)]
    assert least == sorted(least, reverse=True)
    assert least[0] == calibration.largest.max()


def test_order_and_state() -> None:
    rng = np.random.default_rng(3)
    scans = {f"s{i}": _draw(rng) for i in range(9)}
    one, two, again = RegionCalibration(), RegionCalibration(), RegionCalibration()
    for name, values in scans.items():
        one.update(name, values)
    for name, values in reversed(scans.items()):
        two.update(name, values[::-1])
    one.finish()
    two.finish()
    again.load_state_dict(two.state_dict())
    assert (one.largest == again.largest).all()
    assert again.fitted
    assert bool(again.held_out)
    assert one.p_values(np.array([np.inf]))[0] == pytest.approx(0.1)
    assert one.p_values(np.array([0.0]))[0] == 1.0


def test_errors_say_what_to_do() -> None:
    with pytest.raises(NotFittedError, match="Call `update` per healthy scan"):
        RegionCalibration().p_values(np.zeros(1))
    with pytest.raises(NotFittedError, match="at least one healthy scan"):
        RegionCalibration().finish()
    with pytest.raises(ValueError, match="`false_regions` must lie in"):
        _calibrate(np.random.default_rng(0), 9).least_statistic(0)
