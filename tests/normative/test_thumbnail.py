# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np

from monai_dpmm_ad.normative.thumbnail import shrink


def test_a_scan_as_coarse_as_an_atlas_stays_as_it_is() -> None:
    image, affine = np.ones((80, 90, 70), np.float32), np.diag([2.0, 2.0, 2.0, 1.0])
    small, matrix = shrink(image, affine)
    assert small is image
    assert matrix is affine


def test_a_fine_scan_becomes_means_of_whole_blocks_where_they_lie() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0.1, 1, (161, 180, 7)).astype(np.float32)
    image[:40] = 0
    affine = np.array([[0, -1.0, 0, 90], [1.0, 0, 0, -80], [0, 0, 6.0, 5], [0, 0, 0, 1]])
    small, matrix = shrink(image, affine)
    assert small.shape == (81, 90, 7)
    np.testing.assert_allclose(small[30, 20, 3], image[60:62, 40:42, 3].mean(), rtol=1e-6)
    assert (small[:20] == 0).all()
    np.testing.assert_allclose(matrix @ [30, 20, 3, 1], affine @ [60.5, 40.5, 3, 1])
    again, same = shrink(small, matrix)
    assert again is small
    assert same is matrix
