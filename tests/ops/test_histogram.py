# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Score bins: order, edges, relative width; sums of sparse histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_dpmm_ad.ops.histogram import COARSE, EXACT, FINE, SparseSum, count_keys

BINNINGS = [COARSE, FINE, EXACT]
_floats = st.floats(0, 2.0**40, width=32) | st.sampled_from([0.0, 1e-30, 2.0**-32, 2.0**32, 1.0])


@pytest.mark.parametrize("binning", BINNINGS)
@given(values=st.lists(_floats, min_size=2, max_size=30))
@settings(max_examples=80, deadline=None)
def test_keys_keep_the_order_and_edges_enclose_the_scores(binning, values):
    scores = np.sort(np.array(values, np.float32))
    keys = binning.keys(scores)
    assert (np.diff(keys) >= 0).all()
    assert ((keys == 0) == (scores == 0)).all()
    assert keys.max() < binning.num_bins
    assert (scores <= binning.upper(keys)).all()
    inside = scores >= 2.0**-32
    assert (binning.lower(keys)[inside] <= scores[inside]).all()
    assert np.array_equal(scores[:, None] > binning.upper(keys)[None], keys[:, None] > keys[None])


@pytest.mark.parametrize("binning", [COARSE, FINE])
def test_relative_width_and_range(binning):
    middle = np.arange(1, binning.num_bins - 1)
    lower, upper = binning.lower(middle).astype(float), binning.upper(middle).astype(float)
    assert ((upper - lower) / lower).max() < 2.0**-binning.mantissa_bits
    assert (lower[0], binning.lower(binning.num_bins - 1)) == (2.0**-32, 2.0**32)
    np.testing.assert_array_equal(binning.keys(binning.lower(middle)), middle)
    assert np.isinf(binning.upper(binning.num_bins - 1))


def test_exact_keys_lose_nothing_and_negative_zero_is_zero():
    scores = np.array([-0.0, 0.0, 1e-40, 1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    keys = EXACT.keys(scores)
    assert keys[0] == keys[1] == 0
    assert len(set(keys.tolist())) == 4
    np.testing.assert_array_equal(EXACT.lower(keys), np.abs(scores))
    assert FINE.keys(scores)[0] == 0


@pytest.mark.parametrize("high", [20, 10**9])
def test_counts_and_weights_equal_a_dictionary(high):
    rng = np.random.default_rng(0)
    keys, weights = rng.integers(5, high, 200), rng.random(200)
    weights[:50] = 0
    distinct, counts = count_keys(keys)
    same, sums = count_keys(keys, weights)
    np.testing.assert_array_equal(distinct, same)
    for key, count, total in zip(distinct, counts, sums, strict=True):
        assert count == np.sum(keys == key)
        assert total == pytest.approx(weights[keys == key].sum())
    assert [len(part) for part in count_keys(keys[:0])] == [0, 0]
    assert [len(part) for part in count_keys(keys[:0], weights[:0])] == [0, 0]


def test_sparse_sums_do_not_depend_on_order_or_on_asking_in_between():
    rng = np.random.default_rng(1)
    parts = [(rng.choice(50, 9, replace=False), rng.integers(0, 9, (9, 2)).astype(float)) for _ in range(6)]
    dense = np.zeros((50, 2))
    forward, backward = SparseSum(2), SparseSum(2)
    for (keys, values), (other_keys, other_values) in zip(parts, parts[::-1], strict=True):
        dense[keys] += values
        forward.add(keys, values)
        forward.result()
        backward.add(other_keys, other_values)
    for total in (forward, backward):
        keys, values = total.result()
        assert (np.diff(keys) > 0).all()
        np.testing.assert_array_equal(values, dense[keys])
    assert SparseSum(3).result()[1].shape == (0, 3)
