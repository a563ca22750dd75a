# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest

from monai_dpmm_ad.normative.intensity import (
    divide_by_median,
    judge_by_itself,
    polynomials,
    remove_own_part,
    remove_smooth_part,
    smooth,
)
from monai_dpmm_ad.normative.lattice import Lattice, Volume
from monai_dpmm_ad.ops.robust import spread_of

SHAPE = (24, 28, 20)
INSIDE = np.ones(SHAPE, bool)


def test_scale_of_a_scan_does_not_matter() -> None:
    values = np.random.default_rng(0).uniform(1, 3, SHAPE).astype(np.float32)
    weight = (values > 1.5).astype(np.float32)
    lattice = Lattice(SHAPE, 2.0, (0.0, 0.0, 0.0))
    one, two = (divide_by_median(Volume(scale * values, weight, lattice)) for scale in (np.float32(1), np.float32(250)))
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert np.median(one[weight > 0.5]) == pytest.approx(1)
    with pytest.raises(ValueError, match="the foreground is empty"):
        divide_by_median(Volume(values, 0 * weight, lattice))


def test_smoothing_keeps_a_constant_up_to_the_rim() -> None:
    weight = np.zeros(SHAPE, np.float32)
    weight[4:15, 5:20, 3:12] = 1
    assert smooth(7 * weight, weight, 1.5)[weight > 0] == pytest.approx(7, abs=1e-4)


def test_bias_is_removed_and_a_lesion_stays() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij"), -1)
    bias = polynomials(grid.reshape(-1, 3), 2) @ np.random.default_rng(1).normal(size=10)
    noise = np.random.default_rng(0).normal(size=SHAPE) * 0.5
    lesion = np.zeros(SHAPE)
    lesion[5:11, 5:12, 5:11] = 6.0
    out = remove_smooth_part((0.5 * bias.reshape(SHAPE) + noise + lesion).astype(np.float32), INSIDE)
    assert np.abs(out - noise - lesion).max() < 0.5
    assert out[lesion > 0].mean() == pytest.approx(6, abs=0.3)


def test_outside_stays_zero_and_nothing_is_no_error() -> None:
    values = np.ones(SHAPE, np.float32)
    inside = np.zeros(SHAPE, bool)
    assert not remove_smooth_part(values, inside).any()
    inside[3:9, 3:9, 3:9] = True
    assert not remove_smooth_part(values, inside)[~inside].any()


def test_what_is_common_to_a_tissue_is_the_scan_s_own_and_a_lesion_is_not() -> None:
    rng = np.random.default_rng(0)
    tissue = rng.uniform(0.5, 1.5, SHAPE).astype(np.float32)
    noise = rng.normal(size=SHAPE) * 0.5
    lesion = np.zeros(SHAPE)
    lesion[5:11, 5:12, 5:11] = 6.0
    own = 2 + 3 * tissue - tissue**2
    out = judge_by_itself((own + noise + lesion).astype(np.float32), INSIDE, tissue)
    assert np.abs(out - noise - lesion).max() < 0.5
    wide = judge_by_itself((4 * noise).astype(np.float32), INSIDE, tissue)
    assert spread_of(wide) == pytest.approx(0.9, abs=0.01)  # wider than healthy scans' are
    both = np.stack([own + lesion, own + lesion]).astype(np.float32)
    assert (remove_own_part(both, INSIDE, None)[1] == both[1]).all()
    assert spread_of(remove_own_part(both, INSIDE, tissue)[1]) < 1e-3
    assert not judge_by_itself(both[0], ~INSIDE, tissue).any()


def test_polynomials_are_all_monomials() -> None:
    assert [polynomials(np.ones((1, 3)), degree).shape[1] for degree in range(4)] == [1, 4, 10, 20]
