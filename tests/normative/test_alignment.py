# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from helpers.heads import affine_of, make_head
from numpy.typing import NDArray

from monai_dpmm_ad.normative.alignment import Aligner, see
from monai_dpmm_ad.normative.lattice import Volume, resample
from monai_dpmm_ad.normative.registration import turn

Matrix = NDArray[np.float64]


@pytest.fixture(scope="module")
def head() -> Volume:
    return resample(make_head(), affine_of(), 5.0, margin=10.0)


def _show(moved: Matrix, gain: float = 0.0, noise: float = 0.0) -> Volume:
    """The head elsewhere, as a scan whose left side is brighter."""
    image = make_head(noise=noise, seed=1)
    across = np.linspace(-1, 1, len(image), dtype=np.float32)[:, None, None]
    return resample(3 * image * (1 + gain * across), moved @ affine_of(), 5.0, margin=10.0)


def _pose(rigid: bool) -> Matrix:
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = turn((4, -3, 5)), (6, -4, 3)
    return moved if rigid else moved @ np.diag([1.05, 0.96, 1.03, 1.0])


def _miss(matrix: Matrix, moved: Matrix) -> float:
    """How far (mm) the farthest of some places in the head is from where it is shown."""
    places = np.random.default_rng(0).uniform(-40, 40, (50, 3))
    difference = matrix - moved
    return float(np.linalg.norm(places @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


@pytest.mark.parametrize("rigid", [False, True])
def test_pose_is_found(head: Volume, rigid: bool) -> None:
    found = Aligner(head, rigid).align(_show(_pose(rigid)), np.eye(4))
    assert _miss(found, _pose(rigid)) < 1
    if rigid:
        np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("gain", [-0.4, 0.4])
def test_a_bias_field_is_not_taken_for_a_motion(head: Volume, gain: float) -> None:
    assert _miss(Aligner(head).align(_show(np.eye(4), gain), np.eye(4)), np.eye(4)) < 1


def test_end_agrees_at_least_as_well_as_the_start(head: Volume) -> None:
    aligner, scan = Aligner(head), _show(_pose(False), noise=0.5)
    generator = np.random.default_rng(0)
    for _ in range(8):
        start = np.eye(4)
        start[:3, :3], start[:3, 3] = turn(generator.uniform(-60, 60, 3)), generator.uniform(-40, 40, 3)
        end = aligner.align(scan, start)
        assert aligner._compare(scan, end)[0] >= aligner._compare(scan, start)[0]


def test_without_overlap_the_start_is_the_end(head: Volume) -> None:
    away = np.eye(4)
    away[:3, 3] = 500
    np.testing.assert_array_equal(Aligner(head).align(_show(np.eye(4)), away), away)


def test_a_single_slice_can_be_a_reference() -> None:
    slab = resample(make_head()[:, :, 15:16], affine_of(), 5.0)
    found = Aligner(slab).align(slab, np.eye(4))
    assert np.isfinite(found).all()


def test_beyond_its_data_a_scan_is_not_seen(head: Volume) -> None:
    away = np.eye(4)
    away[:3, 3] = 500
    assert (see(head, away, head.lattice) == -1).all()
    np.testing.assert_allclose(see(head, np.eye(4), head.lattice), head.values * head.weight, atol=1e-5)
