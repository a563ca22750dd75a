# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Boxes and components."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from monai_dpmm_ad.ops.components import compute_bounding_box, label_components, rank_components


@pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.6])
def test_components_equal_those_of_the_whole_array(shape, density):
    mask = np.random.default_rng(0).random(shape) < density
    labels, number, box = label_components(mask)
    whole, expected = ndimage.label(mask, np.ones((3,) * mask.ndim))
    assert number == expected
    np.testing.assert_array_equal(labels, whole[box])
    assert mask[box].sum() == mask.sum()
    for axis in range(mask.ndim):
        assert np.take(mask[box], [0, -1], axis).any(axis=tuple(a for a in range(mask.ndim) if a != axis)).all()


def test_corners_connect():
    assert label_components(np.eye(4, dtype=bool))[1] == 1


def test_an_empty_mask_has_no_box_and_no_component():
    mask = np.zeros((3, 4), bool)
    labels, number, box = label_components(mask)
    assert compute_bounding_box(mask) is None
    assert (labels.size, number, mask[box].size) == (0, 0, 0)


@pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)])
def test_components_are_numbered_by_peak_then_size_however_the_array_is_turned(shape):
    generator = np.random.default_rng(0)
    mask = generator.random(shape) < 0.1
    scores = generator.integers(1, 4, shape).astype(np.float32)  # many equal peaks
    labels, box, sizes, peaks = rank_components(mask, scores, 2.0, 4.0)
    order = list(zip(-peaks, -sizes, strict=True))
    assert order == sorted(order)
    assert sizes.min() >= 2
    for number, (size, peak) in enumerate(zip(sizes, peaks, strict=True), start=1):
        assert (labels == number).sum() == size
        assert scores[box][labels == number].max() == peak
    assert sizes.sum() == (labels > 0).sum()
    turned = rank_components(mask[::-1], scores[::-1], 2.0, 4.0)
    assert list(zip(-turned.peaks, -turned.sizes, strict=True)) == order


def test_nothing_is_ranked_where_every_component_is_too_small():
    found = rank_components(np.eye(3, dtype=bool), np.eye(3), min_size=4)
    assert not found.labels.any()
    assert len(found.sizes) == len(found.peaks) == 0
    assert len(rank_components(np.zeros((3, 3), bool), np.eye(3)).sizes) == 0
