# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The stated rates hold on exchangeable scans; state round-trips; what cannot be promised is said."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_dpmm_ad.calibration import MAX_IMAGE_SCORES, Calibration, scans_needed
from monai_dpmm_ad.errors import NotFittedError


def _draw(rng: np.random.Generator, size: int = 60) -> torch.Tensor:
    """Draw a healthy scan: scans differ much from each other, pixels of a scan little."""
    return torch.from_numpy((np.exp(0.6 * rng.normal()) * rng.gamma(8, 0.05, size)).astype(np.float32))


def _fit(scans: list[torch.Tensor], scores: list[float] | None = None, held_out: bool = True) -> Calibration:
    calibration = Calibration()
    for i, scan in enumerate(scans):
        calibration.update(scan, None, float(scan.mean()) if scores is None else scores[i])
    calibration.finish(held_out=held_out)
    return calibration


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    rng = np.random.default_rng(5)
    return _fit([_draw(rng, 500) for _ in range(40)])


@pytest.mark.parametrize("unit", [2.0**-24, 2.0**20])
def test_the_unit_of_the_scores_is_of_no_consequence(fitted, unit):
    rng = np.random.default_rng(5)
    other, scan = _fit([_draw(rng, 500) * unit for _ in range(40)]), _draw(rng, 500)
    for rate in (0.01, 0.05, 0.3):
        assert other.threshold(rate) == fitted.threshold(rate) * unit
    torch.testing.assert_close(other.percentile(scan * unit), fitted.percentile(scan))


@pytest.mark.parametrize(("num_scans", "rate"), [(12, 0.1), (20, 0.1), (12, 0.3), (30, 0.05)])
def test_expected_false_positive_rate_of_a_new_scan_is_at_most_the_stated_rate(num_scans, rate):
    rng = np.random.default_rng(num_scans)
    rates = []
    for _ in range(150):
        calibration = _fit([_draw(rng) for _ in range(num_scans)])
        assert calibration.guaranteed(rate)
        threshold = calibration.threshold(rate)
        rates += [float((_draw(rng) > threshold).float().mean()) for _ in range(5)]
    error = np.std(rates) / np.sqrt(150)
    assert np.mean(rates) <= rate + 2.5 * error
    # Not trivially so: a threshold above everything would also pass.
    assert num_scans * rate < 1 or np.mean(rates) > 0.2 * (rate - 1 / (num_scans + 1))


def test_the_correction_matters_the_plain_quantile_exceeds_its_rate():
    rng = np.random.default_rng(0)
    plain, corrected = [], []
    for _ in range(300):
        calibration = _fit([_draw(rng) for _ in range(12)])
        new = _draw(rng)
        corrected.append(float((new > calibration.threshold(0.1)).float().mean()))
        plain.append(float((new > calibration.quantile(0.1)).float().mean()))
    assert np.mean(corrected) <= 0.1 < np.mean(plain)


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_healthy_scans_are_valid_and_with_random_ties_uniform(ties):
    rng = np.random.default_rng(1)
    smooth, default = [], []
    for _ in range(1500):
        scores = rng.integers(0, 4, 16).astype(float) if ties else rng.normal(size=16)
        calibration = Calibration()
        calibration.image_scores[:15] = torch.from_numpy(scores[:15])
        calibration.num_scans.fill_(15)
        default.append(calibration.p_value(scores[15]))
        smooth.append(calibration.p_value(scores[15], tie_break=rng.random()))
    for level in (0.0625, 0.25, 0.5, 0.8):
        slack = 3 * np.sqrt(level * (1 - level) / 1500)
        assert np.mean(np.array(default) <= level) <= level + slack
        assert np.mean(np.array(smooth) <= level) == pytest.approx(level, abs=slack)


def test_p_value_counts_scores_at_least_as_high():
    calibration = _fit([torch.ones(3)] * 4, scores=[1.0, 2.0, 2.0, 3.0])
    assert [calibration.p_value(s) for s in (0.5, 1.0, 2.0, 2.5, 3.0, 9.0)] == [1.0, 1.0, 0.8, 0.4, 0.4, 0.2]
    assert calibration.p_value(2.0, tie_break=0.5) == pytest.approx((1 + 0.5 * 3) / 5)


DISTRIBUTIONS = {
    "gamma": _draw,
    "ties": lambda rng: torch.from_numpy(rng.integers(0, 4, 60).astype(np.float32)),
    "heavy": lambda rng: torch.from_numpy(np.abs(rng.standard_cauchy(60)).astype(np.float32)),
    "one scan of another kind": lambda rng: _draw(rng) * (100 if rng.random() < 0.05 else 1),
    "constant": lambda rng: torch.full((60,), 0.5),
}


@given(
    st.integers(1, 140),
    st.sampled_from(sorted(DISTRIBUTIONS)),
    st.booleans(),
    st.lists(st.floats(1e-6, 0.999), min_size=2, max_size=40),
    st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_a_lower_rate_never_flags_more_for_any_number_of_scans(num_scans, name, held_out, rates, seed):
    rng = np.random.default_rng(seed)
    calibration = _fit([DISTRIBUTIONS[name](rng) for _ in range(num_scans)], held_out=held_out)
    # Beside any rates those around which the promise ends, where the formula changes.
    ends = (factor / (num_scans + 1) for factor in (0.2, 0.25, 0.3, 1, 1.249, 1.25, 1.251, 1.9))
    rates = sorted({*rates, *(rate for rate in ends if rate < 1)})
    thresholds = [calibration.threshold(rate) for rate in rates]
    assert thresholds == sorted(thresholds, reverse=True)


def test_threshold_solves_the_risk_control_inequality():
    rng = np.random.default_rng(2)
    scans = [_draw(rng, 400) for _ in range(29)]
    calibration = _fit(scans)
    for rate in (0.05, 0.1, 0.25):

        def bound(t):
            return (29 * np.mean([float((s > t).float().mean()) for s in scans]) + 1) / 30

        threshold = calibration.threshold(rate)
        assert bound(threshold) <= rate + 1e-9
        assert bound(threshold * 0.99) > rate


def test_quantile_is_what_the_healthy_pixels_exceed_and_can_count_the_background():
    rng = np.random.default_rng(6)
    calibration, pixels, field = Calibration(), [], []
    for _ in range(12):
        scan = torch.zeros(1000)
        scan[:400] = _draw(rng, 400)
        calibration.update(scan, scan > 0, 0.1)
        pixels.append(scan[:400])
        field.append(scan)
    calibration.finish()
    for rate in (0.01, 0.1, 0.3):
        inside = float((torch.cat(pixels) > calibration.quantile(rate)).float().mean())
        whole = float((torch.cat(field) > calibration.quantile(rate, whole_field=True)).float().mean())
        assert inside == pytest.approx(rate, rel=0.03)
        assert inside <= rate
        assert whole == pytest.approx(rate, rel=0.03)
        assert calibration.quantile(rate) <= calibration.threshold(rate)
    assert calibration.quantile(0.5, whole_field=True) == 0.0


def test_scans_weigh_the_same_however_many_pixels_they_have():
    small, large = torch.linspace(0.1, 1, 50), torch.linspace(1, 2, 5000)
    equal = _fit([small, large])
    # (2 · FPR + 1) / 3 ≤ 0.5 leaves a mean rate of 0.25: half of the larger scan, none of the smaller one.
    assert equal.threshold(0.5) == pytest.approx(1.5, rel=0.01)


def test_guarantee_needs_enough_held_out_scans():
    rng = np.random.default_rng(3)
    scans = [_draw(rng) for _ in range(24)]
    calibration = _fit(scans)
    assert [calibration.guaranteed(rate) for rate in (0.01, 0.049, 0.05, 0.1)] == [False, False, True, True]
    fitted = _fit(scans, held_out=False)
    assert not fitted.guaranteed(0.1)
    assert fitted.threshold(0.1) == fitted.quantile(0.1) < calibration.threshold(0.1)
    # Without a promise: the plain quantile, ...
    pooled = torch.cat(scans).numpy()
    assert calibration.threshold(0.01) == calibration.quantile(0.01)
    assert np.mean(pooled > calibration.threshold(0.01)) <= 0.01
    assert np.mean(pooled > calibration.threshold(0.01) * 0.98) > 0.005
    # ... but not below what a rate with a promise needs.
    assert calibration.quantile(0.045) < calibration.threshold(0.045) == calibration.threshold(0.05)


@pytest.mark.parametrize(("rate", "number"), [(0.01, 124), (0.02, 62), (0.05, 24), (0.1, 12), (0.125, 9), (0.5, 2)])
def test_rounding_does_not_lose_the_guarantee_at_the_smallest_number_of_scans(rate, number):
    assert scans_needed(rate) == number
    scans = [torch.linspace(0.1, 1, 10) * (1 + i) for i in range(number)]
    calibration = _fit(scans)
    assert calibration.guaranteed(rate)
    assert not _fit(scans[1:]).guaranteed(rate)
    # Of 10 n pixels a share of at least 0.25 / n may be above: 2 or more, the highest of which is n.
    assert calibration.threshold(rate) < number


def test_percentile_is_the_healthy_distribution_function(fitted):
    rng = np.random.default_rng(5)
    scans = [_draw(rng, 500) for _ in range(40)]
    values = torch.cat(scans)
    percent = fitted.percentile(values)
    expected = np.array([np.mean(values.numpy() <= v) for v in values[::37].numpy()])
    np.testing.assert_allclose(percent[::37] / 100, expected, atol=2e-3)
    ascending = fitted.percentile(torch.linspace(0, 5, 300).reshape(10, 30))
    assert ascending.shape == (10, 30)
    assert (ascending.flatten().diff() >= 0).all()
    assert fitted.percentile(torch.tensor([0.0, 1e6])).tolist() == [0.0, 100.0]


def test_percentiles_are_float32_whatever_torchs_default_is(fitted):
    scores = torch.linspace(0, 5, 30).reshape(1, 5, 6)
    expected = fitted.percentile(scores)
    torch.set_default_dtype(torch.float64)
    try:
        percent = fitted.percentile(scores)
    finally:
        torch.set_default_dtype(torch.float32)
    assert percent.dtype == torch.float32
    assert torch.equal(percent, expected)


def test_percentile_and_threshold_agree(fitted):
    for rate in (0.05, 0.002):
        quantile = torch.tensor([fitted.quantile(rate)])
        assert float(fitted.percentile(quantile)) == pytest.approx(100 * (1 - rate), abs=0.01)


def test_regions_have_thresholds_of_their_own():
    rng = np.random.default_rng(4)
    atlas = torch.arange(60).reshape(6, 10) // 20  # 0, 1, 2
    calibration = Calibration(num_regions=3)
    for _ in range(12):
        scan = _draw(rng).reshape(6, 10) * (1 + 4 * (atlas == 2))
        calibration.update(scan, scan > 0, 1.0, regions=atlas)
    calibration.finish()
    assert calibration.threshold(0.1, region=2) > 2 * calibration.threshold(0.1, region=1)
    assert calibration.threshold(0.1, region=3) == calibration.threshold(0.1), "no scan had it"
    table = calibration.threshold_map(atlas - (atlas == 0).long() * 7, 0.1)
    assert table.shape == atlas.shape
    assert table[0, 0] == pytest.approx(calibration.threshold(0.1))
    assert table[-1, -1] == pytest.approx(calibration.threshold(0.1, region=2))
    assert calibration.guaranteed(0.1, region=2)


def test_a_scan_without_an_atlas_counts_for_the_whole_foreground_only():
    atlas = torch.tensor([1, 1, 2, 2])
    calibration = Calibration(num_regions=2)
    calibration.update(torch.tensor([1.0, 1.0, 2.0, 2.0]), None, 1.0, regions=atlas)
    calibration.update(torch.tensor([9.0, 9.0, 9.0, 9.0]), None, 1.0)
    calibration.finish()
    assert calibration.region_scans.tolist() == [1, 1]
    assert calibration.threshold(0.3, region=1) == pytest.approx(1.0, rel=1e-3)
    assert calibration.threshold(0.3) == pytest.approx(9.0, rel=1e-3)
    lost = Calibration(num_regions=2)
    lost.update(torch.ones(4), None, 1.0, regions=atlas + 7)
    with pytest.raises(NotFittedError, match="needs a scan with one of the 2 regions"):
        lost.finish()


def test_state_dict_round_trips_strictly_as_tensors_only(fitted):
    file = io.BytesIO()
    torch.save(fitted.state_dict(), file)
    assert file.tell() < 64_000
    file.seek(0)
    other = Calibration()
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    scores = torch.linspace(0, 3, 50)
    assert other.fitted
    assert torch.equal(other.percentile(scores), fitted.percentile(scores))
    for rate in (0.01, 0.1):
        assert other.threshold(rate) == fitted.threshold(rate)
        assert other.guaranteed(rate) == fitted.guaranteed(rate)
    assert other.p_value(0.4) == fitted.p_value(0.4)


def test_shapes_of_the_state_do_not_depend_on_the_number_of_scans(fitted):
    fresh = Calibration().state_dict()
    assert {k: v.shape for k, v in fresh.items()} == {k: v.shape for k, v in fitted.state_dict().items()}


def test_more_scans_than_kept_scores_still_give_a_p_value_whatever_their_order():
    calibration, other = Calibration(), Calibration()
    scan = torch.tensor([0.1, 0.2])
    for i in range(MAX_IMAGE_SCORES + 50):
        calibration.update(scan, None, float(i))
        other.update(scan, None, float(MAX_IMAGE_SCORES + 49 - i))
    calibration.finish()
    other.finish()
    assert torch.equal(calibration.image_scores, other.image_scores)
    assert int(calibration.num_scans) == MAX_IMAGE_SCORES + 50
    assert calibration.p_value(1e9) == pytest.approx(1 / (MAX_IMAGE_SCORES + 1))
    assert calibration.p_value(MAX_IMAGE_SCORES / 2) == pytest.approx(0.5, abs=0.05)


def test_only_the_foreground_counts():
    scan = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.6])
    masked, whole = Calibration(), Calibration()
    masked.update(scan, scan > 0, 0.1)
    masked.finish()
    whole.update(scan, None, 0.1)
    whole.finish()
    assert masked.threshold(0.8) == pytest.approx(0.5, rel=1e-4)
    assert whole.threshold(0.8) == pytest.approx(0.0, abs=1e-4)


def test_order_of_calls_and_reset(fitted):
    fresh = Calibration()
    for call in (lambda: fresh.threshold(0.1), lambda: fresh.p_value(1.0), lambda: fresh.percentile(torch.ones(2))):
        with pytest.raises(NotFittedError, match="has seen no scans"):
            call()
    with pytest.raises(NotFittedError, match="at least one healthy scan"):
        fresh.finish()
    used = _fit([torch.ones(3)])
    assert used.fitted
    used.reset()
    assert not used.fitted
    for key, value in Calibration().state_dict().items():
        assert torch.equal(used.state_dict()[key], value), key


def test_arguments_are_checked(fitted):
    good = torch.ones(4)
    for arguments, match in (
        ((good * -1, None, 0.1), "finite and nonnegative"),
        ((good * torch.inf, None, 0.1), "finite and nonnegative"),
        ((good, torch.zeros(4), 0.1), "must not be empty"),
        ((good, torch.ones(5), 0.1), "must have the map's shape"),
        ((good, None, float("inf")), "`image_score` must be finite"),
        ((good, None, 0.1, None, good), "`regions` must be left out"),
    ):
        calibration = Calibration()
        with pytest.raises(ValueError, match=match):
            calibration.update(*arguments)
        with pytest.raises(NotFittedError, match="at least one"):
            calibration.finish()
    calibration.update(good, None, 0.1, name="a")
    with pytest.raises(ValueError, match="got 'a' twice"):
        calibration.update(good, None, 0.1, name="a")
    with pytest.raises(ValueError, match="`num_regions` must not be negative"):
        Calibration(num_regions=-1)
    for rate in (0, 1, 5):
        with pytest.raises(ValueError, match="`rate` must lie in"):
            fitted.threshold(rate)
    with pytest.raises(ValueError, match="`region` must lie between"):
        fitted.threshold(0.1, region=1)
    with pytest.raises(ValueError, match="`tie_break` must lie"):
        fitted.p_value(0.1, tie_break=2)
