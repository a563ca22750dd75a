# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Figures from counts: equality with scikit-learn and with loops, properties, bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import metrics_oracles as oracle
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_dpmm_ad.metrics import functional


def _counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, bins = np.unique(scores, return_inverse=True)
    return np.bincount(bins, labels), np.bincount(bins, ~labels)


@st.composite
def _samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array(draw(st.lists(st.integers(0, 12), min_size=4, max_size=60)), dtype=float)
    labels = np.array(draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    labels[0], labels[1] = True, False
    return labels, scores


@given(_samples())
@settings(max_examples=150, deadline=None)
def test_figures_equal_sklearn_and_loops_with_ties(sample):
    labels, scores = sample
    pos, neg = _counts(labels, scores)
    assert functional.compute_auroc(pos, neg) == pytest.approx(roc_auc_score(labels, scores))
    assert functional.compute_average_precision(pos, neg) == pytest.approx(average_precision_score(labels, scores))
    best, lowest = functional.compute_best_dice(pos, neg)
    assert best == pytest.approx(oracle.best_dice(labels, scores))
    assert oracle.dice(labels, scores >= np.unique(scores)[lowest]) == pytest.approx(best)


@given(_samples(), st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5]))
@settings(max_examples=100, deadline=None)
def test_dice_at_fpr_equals_loop(sample, rate):
    labels, scores = sample
    pos, neg = _counts(labels, scores)
    chosen = np.unique(scores)[functional.find_fpr_bin(neg, rate)]
    assert chosen == min(t for t in np.unique(scores) if np.mean(scores[~labels] > t) <= rate)
    assert functional.compute_dice_at_fpr(pos, neg, rate) == pytest.approx(oracle.dice(labels, scores > chosen))


@given(_samples(), st.integers(2, 5))
@settings(max_examples=100, deadline=None)
def test_error_bounds_hold_for_any_merging_of_bins(sample, width):
    labels, scores = sample
    scores = scores + np.arange(len(scores)) / 1000
    overlap_weight = 1 / labels.sum()
    fine, coarse = _counts(labels, scores), _counts(labels, np.floor(scores / width))
    bounds = functional.compute_error_bounds(*coarse, coarse[0] * overlap_weight, 1)
    pairs = {
        "auroc": [functional.compute_auroc(*c) for c in (fine, coarse)],
        "aupr": [functional.compute_average_precision(*c) for c in (fine, coarse)],
        "best_dice": [functional.compute_best_dice(*c)[0] for c in (fine, coarse)],
        "aupro": [functional.compute_aupro(c[0] * overlap_weight, c[1], 1) for c in (fine, coarse)],
    }
    for key, (exact, binned) in pairs.items():
        assert abs(exact - binned) <= bounds[key] + 1e-12, key


def test_figures_do_not_change_when_all_scores_are_mapped_monotonically():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(200), rng.random(200) < 0.3
    first, second = _counts(labels, scores), _counts(labels, np.exp(5 * scores))
    np.testing.assert_array_equal(first, second)


def test_leading_dimensions_are_independent_replicates():
    rng = np.random.default_rng(1)
    pos, neg = rng.integers(0, 5, (3, 2, 9)), rng.integers(1, 5, (3, 2, 9))
    for function in (
        functional.compute_auroc,
        functional.compute_average_precision,
        lambda p, n: functional.compute_best_dice(p, n)[0],
        lambda p, n: functional.compute_dice_at_fpr(p, n, 0.2),
        lambda p, n: functional.compute_aupro(p / 7, n, p.sum(-1) / 7),
    ):
        together = function(pos, neg)
        assert together.shape == (3, 2)
        for i in np.ndindex(3, 2):
            assert together[i] == pytest.approx(float(function(pos[i], neg[i])))


def test_perfect_constant_and_reversed_scores():
    perfect, constant = (np.array([0, 4]), np.array([6, 0])), (np.array([4]), np.array([6]))
    assert functional.compute_auroc(*perfect) == functional.compute_average_precision(*perfect) == 1
    assert functional.compute_aupro(perfect[0] / 4, perfect[1], 1) == 1
    assert functional.compute_auroc(*constant) == 0.5
    assert functional.compute_average_precision(*constant) == pytest.approx(0.4)
    assert functional.compute_auroc(*perfect[::-1]) == 0
    assert functional.compute_aupro(constant[0] / 4, constant[1], 1, limit=0.3) == pytest.approx(0.15)


def test_a_missing_class_gives_nan_and_no_bounds():
    for function in (functional.compute_auroc, functional.compute_average_precision):
        assert np.isnan(function(np.zeros(3), np.ones(3)))
    assert np.isnan(functional.compute_best_dice(np.zeros(3), np.ones(3))[0])
    assert functional.compute_error_bounds(np.zeros(3), np.ones(3), np.zeros(3), 0) == {}
