# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Boxes and components."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from monai_dpmm_ad.ops.components import compute_bounding_box, label_components


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
