# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Registration half-way: a known motion is found, exchanging the scans gives the inverse, a lesion moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.heads import affine_of, make_head

from monai_dpmm_ad.normative.halfway import bring, meet_halfway, split_transform
from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample
from monai_dpmm_ad.normative.registration import turn


def make_motion(stretch: float = 0.0) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = turn((3.0, -2.0, 4.0)) * (1 + stretch)
    motion[:3, 3] = 4.0, -3.0, 2.0
    return motion


def scans(motion: np.ndarray, lesion: bool = False) -> tuple[Volume, Volume]:
    """A head, and as it lies after a motion, from one fine picture of it."""
    fine = make_head((68, 80, 60))
    affine = affine_of() @ np.diag([0.5, 0.5, 0.5, 1.0])
    grid = Lattice((80, 96, 72), 2.5, (-100.0, -120.0, -90.0))
    moved = bring(fine, affine, grid, np.linalg.inv(motion))
    if lesion:
        moved[40:50, 50:62, 30:40] *= 2
    return resample(fine, affine, 5.0, margin=20.0), resample(moved, grid.affine, 5.0, margin=20.0)


def error(found: np.ndarray, motion: np.ndarray) -> float:
    """How far a transform is off on the surface of the head, mm."""
    corners = 70 * np.array([[x, y, z, 1 / 70] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return float(np.abs(corners @ (found - motion).T).max())


@pytest.mark.parametrize("lesion", [False, True])
def test_a_motion_is_found_to_a_fraction_of_a_voxel(lesion: bool) -> None:
    motion = make_motion()
    found = meet_halfway(*scans(motion, lesion), np.eye(4), stretch=False)
    assert error(found, motion) < 0.6, "of voxels of 5 mm"
    assert np.linalg.svd(found[:3, :3])[1] == pytest.approx([1, 1, 1])


def test_exchanging_the_scans_gives_the_inverse() -> None:
    one, two = scans(make_motion(), lesion=True)
    there, back = (meet_halfway(*pair, np.eye(4), stretch=True) for pair in ((one, two), (two, one)))
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-6)


def test_a_stretch_is_found_and_a_large_one_refused() -> None:
    motion = make_motion(0.01)
    found = meet_halfway(*scans(motion), np.eye(4), stretch=True)
    assert np.linalg.svd(found[:3, :3])[1] == pytest.approx([1.01] * 3, abs=4e-3)
    start = make_motion()
    assert (meet_halfway(*scans(make_motion(0.08)), start, stretch=True) == start).all()


def test_half_the_way_twice_is_the_whole() -> None:
    half = split_transform(make_motion())
    np.testing.assert_allclose(half @ half, make_motion(), atol=1e-10)
