# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The accumulator against scikit-learn and slow oracles; what is absent; merging; intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import metrics_oracles as oracle
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from monai_dpmm_ad.metrics import FROC_BUDGETS, AnomalyMetrics

PIXEL_KEYS = ("pixel_auroc", "pixel_aupr", "aupro", "best_dice", "dice_fpr10", "dice_fpr05", "dice_fpr01")


def _run(scans, **settings) -> AnomalyMetrics:
    metrics = AnomalyMetrics(**settings)
    for scan in scans:
        metrics.update(**scan)
    return metrics


def _expected(scans, foreground: bool) -> dict[str, float]:
    valid = [s["foreground"] if foreground else np.ones_like(s["mask"]) for s in scans]
    labels = np.concatenate([s["mask"][v] for s, v in zip(scans, valid, strict=True)])
    scores = np.concatenate([s["score_map"][v] for s, v in zip(scans, valid, strict=True)])
    out = {
        "pixel_auroc": roc_auc_score(labels, scores),
        "pixel_aupr": average_precision_score(labels, scores),
        "best_dice": oracle.best_dice(labels, scores),
        "aupro": oracle.aupro([s["mask"] for s in scans], [s["score_map"] for s in scans], valid, 0.3),
    }
    for rate in (0.10, 0.05, 0.01):
        # The accumulator may choose any score between two normal ones; the lowest keeps the most positives.
        allowed = [t for t in np.unique(scores) if np.mean(scores[~labels] > t) <= rate]
        out[f"dice_fpr{round(100 * rate):02d}"] = oracle.dice(labels, scores > allowed[0])
    return out


@pytest.mark.parametrize("foreground", [False, True])
def test_exact_form_equals_oracles(scans, foreground):
    figures = _run(scans, exact=True).compute(bootstrap=0)
    for key, value in _expected(scans, foreground).items():
        assert figures[key + "_foreground" * foreground] == pytest.approx(value, abs=1e-9), key


def test_streaming_form_is_within_its_bounds_and_within_a_thousandth(scans):
    streaming, exact = _run(scans), _run(scans, exact=True)
    binned, true, bounds = streaming.compute(bootstrap=0), exact.compute(bootstrap=0), streaming.compute_error_bounds()
    assert set(binned) == set(true)
    for key in true:
        assert binned[key] == pytest.approx(true[key], abs=1e-3), key
        if key in bounds:
            assert abs(binned[key] - true[key]) <= bounds[key] + 1e-12, key
    assert set(exact.compute_error_bounds().values()) == {0.0}


@pytest.mark.parametrize("unit", [2.0**-24, 2.0**20])
def test_the_unit_of_the_scores_is_of_no_consequence(scans, unit):
    other = [{**scan, "score_map": scan["score_map"] * np.float32(unit)} for scan in scans]
    assert _run(other).compute(bootstrap=20) == _run(scans).compute(bootstrap=20)


@pytest.mark.parametrize("low", [0.0, 0.5, 20.0, 3000.0])
@pytest.mark.parametrize("spread", [0.03, 1.0])
def test_error_bound_is_below_a_thousandth_even_for_a_narrow_range_of_scores(low, spread):
    # Distances in many dimensions and log-likelihoods crowd within a few per cent of a large number.
    rng = np.random.default_rng(3)
    shape = (60, 60, 20)
    mask = np.zeros(shape, bool)
    mask[5:20, 5:20, 5:10] = True
    scale = spread * max(low, 1.0)
    maps = [(low + scale * rng.beta(2, 5, shape) + 0.3 * scale * mask).astype(np.float32) for _ in range(2)]
    streaming, exact = AnomalyMetrics(froc=False), AnomalyMetrics(froc=False, exact=True)
    for metrics in (streaming, exact):
        for i, scores in enumerate(maps):
            metrics.update(str(i), scores, mask)
    bounds, binned, true = streaming.compute_error_bounds(), streaming.compute(0), exact.compute(0)
    for key, value in true.items():
        assert abs(binned[key] - value) <= 1e-3, key
    for key, bound in bounds.items():
        assert abs(binned[key] - true[key]) <= bound <= 1e-3, key


def test_image_figures_equal_sklearn_with_ties(scans):
    figures = _run(scans).compute(bootstrap=0)
    classes = [bool(s["mask"].any()) for s in scans]
    scores = [s["image_score"] for s in scans]
    assert figures["image_auroc"] == pytest.approx(roc_auc_score(classes, scores))
    assert figures["image_aupr"] == pytest.approx(average_precision_score(classes, scores))


def test_froc_equals_oracle(make_scans):
    scans = make_scans(5, levels=8)
    figures = _run(scans).compute(bootstrap=0)
    thresholds = np.unique(np.concatenate([s["score_map"].ravel() for s in scans]))
    masks, maps = [s["mask"] for s in scans], [s["score_map"] for s in scans]
    sensitivity, false_positives = oracle.froc(masks, maps, thresholds[thresholds > 0])
    within = [max(sensitivity[false_positives <= b], default=0.0) for b in FROC_BUDGETS]
    assert figures["froc"] == pytest.approx(np.mean(within))


def test_given_thresholds_are_applied_exactly(scans):
    tables = {0.10: 0.31, 0.05: 0.4}, {0.10: 0.36, 0.05: 0.45}
    metrics = _run(scans, normal_thresholds=tables[0], normal_thresholds_foreground=tables[1])
    figures = metrics.compute(bootstrap=0)
    labels, scores = (np.concatenate([s[k].ravel() for s in scans]) for k in ("mask", "score_map"))
    inside = np.concatenate([s["foreground"].ravel() for s in scans])
    for rate, key in ((0.10, "dice_fpr10"), (0.05, "dice_fpr05")):
        assert figures[key] == pytest.approx(oracle.dice(labels, scores > np.float32(tables[0][rate])))
        expected = oracle.dice(labels[inside], scores[inside] > np.float32(tables[1][rate]))
        assert figures[key + "_foreground"] == pytest.approx(expected)
    assert "dice_fpr01" not in figures


def test_each_rate_has_a_figure_of_its_own(scans):
    found = _run(scans, normal_thresholds={0.1: 0.5, 0.012: 0.6, 0.0125: 0.7, 0.001: 0.8, 0.0004: 0.9}).compute(0)
    keys = {key for key in found if key.startswith("dice_fpr") and not key.endswith("_foreground")}
    assert keys == {"dice_fpr10", "dice_fpr01_2", "dice_fpr01_25", "dice_fpr00_1", "dice_fpr00_04"}


def test_keys_are_absent_where_the_data_lack_what_they_need(make_scans):
    scans = make_scans(6)
    without_masks = [scan | {"mask": None, "abnormal": i % 2} for i, scan in enumerate(scans)]
    assert set(_run(without_masks).compute(bootstrap=0)) == {"image_auroc", "image_aupr"}
    one_class = [scan for scan in scans if scan["mask"].any()]
    assert "image_auroc" not in _run(one_class).compute(bootstrap=0)
    assert "pixel_auroc" in _run(one_class).compute(bootstrap=0)
    normal = [scan for scan in scans if not scan["mask"].any()]
    assert _run(normal).compute(bootstrap=0) == {}
    some = [scan | ({"foreground": None} if i == 2 else {}) for i, scan in enumerate(scans)]
    assert not [key for key in _run(some).compute(bootstrap=0) if key.endswith("_foreground")]
    assert AnomalyMetrics().compute() == {}
    assert AnomalyMetrics().curves() == {}


def test_all_values_are_plain_finite_numbers_or_intervals_around_them(make_scans):
    figures = _run(make_scans(12)).compute(bootstrap=200)
    for key in PIXEL_KEYS + tuple(k + "_foreground" for k in PIXEL_KEYS) + ("image_auroc", "image_aupr", "froc"):
        low, high = figures[key + "_ci"]
        assert type(figures[key]) is type(low) is type(high) is float
        assert 0 <= low <= high <= 1
        assert low - 0.05 <= figures[key] <= high + 0.05, key


def test_scans_without_map_or_of_unknown_class_only_count_where_they_can(make_scans):
    scans = make_scans(6)
    more = [{"name": "a", "image_score": 0.5, "abnormal": 1}, {"name": "b", "score_map": scans[0]["score_map"]}]
    assert _run(scans).compute(0)["pixel_auroc"] == _run([*scans, *more]).compute(0)["pixel_auroc"]
    assert "image_auroc_ci" not in _run([*scans, more[1]]).compute(50), "one scan of unknown class has no variation"
    assert "image_auroc_ci" in _run(scans).compute(50)


def test_order_of_scans_and_way_of_merging_do_not_matter(make_scans):
    scans = make_scans(9)
    whole = _run(scans)
    left, right = _run(scans[5:][::-1]), _run(scans[:5])
    left.merge(right)
    assert len(left) == 9
    first, second = whole.compute(bootstrap=50, seed=3), left.compute(bootstrap=50, seed=3)
    assert set(first) == set(second)
    for key in first:
        assert first[key] == pytest.approx(second[key], abs=1e-12), key


def test_merging_the_state_equals_merging_the_object_and_leaves_the_source_alone(make_scans):
    scans = make_scans(8)
    target, source = _run(scans[:4]), _run(scans[4:])
    before = source.compute(0)
    target.merge(source.state())
    target.reset()
    target.merge(source)
    assert target.compute(0) == source.compute(0) == before


def test_merge_refuses_other_settings_and_repeated_scans(make_scans):
    metrics = _run(make_scans(3))
    with pytest.raises(ValueError, match="even_divisible=False"):
        metrics.merge(_run(make_scans(2)))
    with pytest.raises(ValueError, match="must have the settings"):
        metrics.merge(AnomalyMetrics(exact=True))


def test_tensors_arrays_and_memory_orders_give_the_same(scans):
    tensors = [
        scan
        | {key: torch.as_tensor(scan[key]) for key in ("score_map", "foreground")}
        | {"mask": torch.as_tensor(scan["mask"]).to(torch.uint8) * 255}
        for scan in scans
    ]
    fortran = [scan | {k: np.asfortranarray(scan[k]) for k in ("score_map", "foreground", "mask")} for scan in scans]
    expected = _run(scans).compute(0)
    assert _run(tensors).compute(0) == expected
    assert _run(fortran).compute(0) == expected


def test_scores_of_the_background_outside_the_foreground_count_only_in_the_whole_field(make_scans):
    scans = make_scans(6)
    noisy = [scan | {"score_map": np.where(scan["foreground"], scan["score_map"], np.float32(2.0))} for scan in scans]
    clean, dirty = _run(scans).compute(0), _run(noisy).compute(0)
    assert dirty["pixel_auroc"] < clean["pixel_auroc"] - 0.1
    for key in PIXEL_KEYS:
        assert dirty[key + "_foreground"] == pytest.approx(clean[key + "_foreground"], abs=1e-12)


def test_intervals_cover_and_shrink_with_more_scans(make_scans):
    widths = []
    for number in (8, 80):
        low, high = _run(make_scans(number, seed=number), froc=False).compute(bootstrap=300)["pixel_aupr_ci"]
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_curves_are_short_monotone_and_inside_their_bands(make_scans):
    traced = _run(make_scans(12)).curves(bootstrap=100)
    expected = {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pixel_roc_foreground", "pixel_pr_foreground", "froc"}
    assert set(traced) == expected
    for name, curve in traced.items():
        assert len(curve.x) == len(curve.y) == len(curve.low) == len(curve.high) <= 500
        assert np.all(np.diff(curve.x) > 0)
        if not name.endswith(("_pr", "_pr_foreground")):
            assert np.all(np.diff(curve.y) >= -1e-12)
        assert np.mean((np.array(curve.low) - 0.02 <= curve.y) & (curve.y <= np.array(curve.high) + 0.02)) > 0.9
    assert _run(make_scans(4)).curves(bootstrap=0)["pixel_roc"].low is None


def test_roc_curve_integrates_to_the_auroc(make_scans):
    metrics = _run(make_scans(12))
    curve = metrics.curves(bootstrap=0)["pixel_roc_foreground"]
    assert auc(curve.x, curve.y) == pytest.approx(metrics.compute(0)["pixel_auroc_foreground"], abs=0.01)


def test_arguments_are_checked(make_scans):
    scan = make_scans(2)[1]
    metrics = AnomalyMetrics()
    for change, match in (
        ({"score_map": -scan["score_map"]}, "finite and nonnegative"),
        ({"score_map": scan["score_map"] * np.nan}, "finite and nonnegative"),
        ({"score_map": scan["score_map"][None, None]}, "must be 2D or 3D"),
        ({"mask": scan["mask"][:-1]}, "`mask` must have the map's shape"),
        ({"foreground": scan["foreground"][:-1]}, "`foreground` must have the map's shape"),
        ({"image_score": float("nan")}, "`image_score` must be finite"),
        ({"image_score": "high"}, "`image_score` must be finite, got high in scan 'scan001'"),
        ({"abnormal": -1}, "`abnormal` must be 0, 1 or None, got -1 in scan 'scan001'"),
        ({"abnormal": 2}, "`abnormal` must be 0, 1 or None, got 2"),
        ({"abnormal": float("nan")}, "`abnormal` must be 0, 1 or None, got nan"),
        ({"abnormal": ""}, "`abnormal` must be 0, 1 or None, got ''"),
        ({"abnormal": 0}, "`mask` must be empty where"),
    ):
        with pytest.raises(ValueError, match=match):
            metrics.update(**(scan | change))
    assert len(metrics) == 0, "a refused scan leaves nothing behind"
    metrics.update(**scan)
    with pytest.raises(ValueError, match="must be unique, got 'scan001' twice"):
        metrics.update(**scan)
    with pytest.raises(ValueError, match="`fpr_limit` must lie in"):
        AnomalyMetrics(fpr_limit=0)
    with pytest.raises(ValueError, match="rates in"):
        AnomalyMetrics(normal_thresholds={5: 0.1})
    with pytest.raises(ValueError, match="must have the rates"):
        AnomalyMetrics(normal_thresholds={0.1: 1.0}, normal_thresholds_foreground={0.2: 1.0})
    with pytest.raises(ValueError, match="must be given with"):
        AnomalyMetrics(normal_thresholds_foreground={0.2: 1.0})


def test_maps_of_zeros_find_nothing():
    metrics = AnomalyMetrics()
    for name, mask in (("a", np.eye(8)), ("b", np.zeros((8, 8)))):
        metrics.update(name=name, score_map=np.zeros((8, 8)), mask=mask, image_score=0.0)
    figures = metrics.compute(bootstrap=20)
    assert (figures["froc"], figures["pixel_auroc"]) == (0.0, 0.5)
