# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""FROC from a maximum spanning tree against labelling the map at every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from reference import metrics_oracles as oracle

from monai_dpmm_ad.metrics.froc import compute_froc, compute_sensitivities, find_false_positive_events
from monai_dpmm_ad.ops.components import label_components


def _evaluate(masks, maps):
    events, lesions = [], []
    for mask, score in zip(masks, maps, strict=True):
        events.append(find_false_positive_events(score, mask))
        labels, number, box = label_components(mask)
        lesions += [score[box][labels == i].max() for i in range(1, number + 1)]
    keys, changes = (np.concatenate(part) for part in zip(*events, strict=True))
    return compute_froc(keys, changes, np.array(lesions), len(maps))


@pytest.mark.parametrize("shape", [(15, 17), (7, 9, 8)])
@pytest.mark.parametrize("levels", [3, 12, 4000])
@pytest.mark.parametrize("seed", [0, 1])
def test_curve_equals_loop_over_thresholds(shape, levels, seed):
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, levels, shape) * (rng.random(shape) < 0.7) for _ in range(3)]
    masks = [rng.random(shape) < 0.02 for _ in range(2)] + [np.zeros(shape, bool)]
    thresholds, sensitivity, false_positives = _evaluate(masks, maps)
    everything = np.unique(np.concatenate([m.ravel() for m in maps]))
    everything = everything[everything > 0]
    slow_sensitivity, slow_false = oracle.froc(masks, maps, everything)
    # Between the curve's own thresholds nothing changes.
    steps = np.searchsorted(-thresholds, -everything[::-1], side="right") - 1
    np.testing.assert_allclose(np.append(sensitivity, 0)[steps], slow_sensitivity)
    np.testing.assert_allclose(np.append(false_positives, 0)[steps], slow_false)


def test_number_of_changes_is_that_of_maxima_and_mergers_only():
    score = np.array([[1, 5, 2, 4, 1, 0, 3]])
    keys, changes = find_false_positive_events(score, np.zeros(score.shape, bool))
    assert dict(zip(keys.tolist(), changes.tolist(), strict=True)) == {5: 1, 4: 1, 2: -1, 3: 1}


def test_a_component_that_touches_a_lesion_is_no_false_positive():
    score = np.array([[3, 2, 0, 4, 0, 5]])
    mask = np.array([[1, 0, 0, 0, 0, 0]], dtype=bool)
    keys, changes = find_false_positive_events(score, mask)
    assert dict(zip(keys.tolist(), changes.tolist(), strict=True)) == {4: 1, 5: 1}


def test_empty_and_constant_maps():
    empty = find_false_positive_events(np.zeros((4, 4), int), np.zeros((4, 4), bool))
    assert [len(part) for part in empty] == [0, 0]
    keys, changes = find_false_positive_events(np.full((4, 4), 7), np.zeros((4, 4), bool))
    assert (keys.tolist(), changes.tolist()) == ([7], [1])
    assert len(find_false_positive_events(np.full((4, 4), 7), np.ones((4, 4), bool))[0]) == 0


def test_sensitivity_within_budget_uses_the_highest_count_met_so_far():
    # Two false positives at 9 melt into one at 8; the budget of one is exceeded before.
    thresholds, sensitivity, false_positives = compute_froc(np.array([9, 8]), np.array([2, -1]), np.array([8, 10]), 1)
    assert thresholds.tolist() == [10, 9, 8]
    assert false_positives.tolist() == [0, 2, 2]
    assert compute_sensitivities(sensitivity, false_positives, (0.5, 1.0, 2.0)).tolist() == [0.5, 0.5, 1.0]
