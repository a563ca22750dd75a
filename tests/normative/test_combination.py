# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from monai_dpmm_ad.normative.combination import combine, surprise, take_side, weigh_channels, weigh_scan


def test_surprise_is_the_tail_probability() -> None:
    z = torch.tensor([-3.0, 0.0, 1.0, 3.0, 8.0, 30.0], dtype=torch.float64)
    expected = torch.from_numpy(-stats.norm.logsf(z.numpy()) / math.log(10))
    torch.testing.assert_close(surprise(z), expected)


def test_surprise_rises_and_is_positive() -> None:
    values = surprise(torch.linspace(-8, 60, 2000, dtype=torch.float64))
    assert (values.diff() > 0).all()
    assert (values > 0).all()
    assert torch.isfinite(values).all()
    assert surprise(torch.tensor([-1e6]))[0] > 0


def test_channels_add_up_by_weight() -> None:
    one, two = torch.randn(5), torch.randn(5)
    torch.testing.assert_close(combine([one, two], [1.0, 0.5]), surprise(one) + 0.5 * surprise(two))


def test_sides() -> None:
    z = torch.tensor([-2.0, 3.0])
    assert take_side(z, "both").tolist() == [2, 3]
    assert take_side(z, "bright").tolist() == [-2, 3]
    assert take_side(z, "dark").tolist() == [2, -3]
    with pytest.raises(ValueError, match=r"`side` must be one of .*got 'brigth'\. Did you mean 'bright'"):
        take_side(z, "brigth")


def test_a_scan_of_thick_slices_has_the_weight_of_one_plane() -> None:
    fitted = {planes: [*weigh_channels(planes), 0.4] for planes in (1, 3)}
    cubes, thick = np.diag([2.0, 2, 2, 1]), np.diag([0.9, 0.9, 5, 1])[[1, 2, 0, 3]]  # in any orientation
    assert weigh_scan(fitted[3], (90, 70, 70), cubes) == fitted[3]
    assert weigh_scan(fitted[3], (200, 150, 28), thick) == fitted[1]
    assert weigh_scan(fitted[1], (90, 70, 70), cubes) == fitted[1]
    assert weigh_scan([1.0, 1.0, 0.5], (90, 70, 70), cubes) == [1.0, 1.0, 0.5]  # as fitted by an earlier version
