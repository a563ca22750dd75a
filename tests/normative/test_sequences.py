# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Sequences of one visit on different grids."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.heads import affine_of, make_head
from numpy.typing import NDArray

from monai_dpmm_ad.normative.registration import turn
from monai_dpmm_ad.normative.sequences import bring_sequence, measure_overlap, register_sequences

PLACES = np.random.default_rng(0).uniform(-50, 50, (50, 3))


def other_contrast(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """As a FLAIR beside a T1: what is bright is dark."""
    return np.where(image > 0, 2.2 - image, 0).astype(np.float32)


def move(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn(angles), shift
    return matrix


def error(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """How far (mm) the places are apart on average."""
    difference = found - true
    return float(np.linalg.norm(PLACES @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())


def test_a_motion_between_sequences_is_found() -> None:
    motion = move((4, 0, -5), (9, -6, 4))
    head = make_head(noise=0.3)
    found = register_sequences(head, affine_of(), other_contrast(head), motion @ affine_of())
    assert error(np.eye(4), motion) > 8
    assert error(found, motion) < 1.5


def test_sequences_that_agree_stay_where_the_scanner_says() -> None:
    head = make_head(noise=0.3)
    thick = other_contrast(head)[:, :, ::2]
    affine = affine_of() @ np.diag([1.0, 1.0, 2.0, 1.0])
    assert np.array_equal(register_sequences(head, affine_of(), thick, affine), np.eye(4))


def test_what_shows_nothing_in_common_stays_where_the_scanner_says() -> None:
    noise = np.random.default_rng(0).random(make_head().shape, dtype=np.float32)
    found = register_sequences(make_head(), affine_of(), noise, affine_of(4.0))
    assert np.abs(np.linalg.det(found[:3, :3]) - 1) < 1e-6
    assert error(found, np.eye(4)) < 30


def test_a_sequence_is_brought_to_the_others_voxels() -> None:
    head = make_head()
    affine = affine_of()
    moved = move((0, 0, 90), (10, 0, 0))
    index = np.linalg.inv(affine) @ np.linalg.inv(moved) @ affine
    brought = bring_sequence(head, moved @ affine, head.shape, affine, np.eye(4))
    for voxel in ([17, 20, 15], [12, 18, 10]):
        x, y, z = index[:3, :3] @ voxel + index[:3, 3]
        a, b, c = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        u, v, w = x - a, y - b, z - c
        corners = head[a : a + 2, b : b + 2, c : c + 2]
        by_hand = np.einsum("ijk,i,j,k", corners, [1 - u, u], [1 - v, v], [1 - w, w])
        assert brought[tuple(voxel)] == pytest.approx(by_hand, abs=1e-4)


def test_beyond_its_field_of_view_a_sequence_is_dark() -> None:
    head = make_head() - 1024
    part = head[:, :, 10:20]
    affine = affine_of()
    affine[2, 3] += 5.0 * 10
    brought = bring_sequence(part, affine, head.shape, affine_of(), np.eye(4))
    assert np.allclose(brought[:, :, 10:20], part, atol=1e-3)
    assert (brought[:, :, :9] == part.min()).all()


def test_overlap_is_a_share_of_the_smaller_field() -> None:
    one = np.eye(4)
    inside = np.diag([0.5, 0.5, 0.5, 1.0])
    far = np.eye(4)
    far[0, 3] = 7
    assert measure_overlap((10, 10, 10), one, (10, 10, 10), inside) == pytest.approx(0.95**3, abs=0.15)
    assert measure_overlap((10, 10, 10), one, (10, 10, 10), far) == pytest.approx(0.3)
    far[0, 3] = 20
    assert measure_overlap((10, 10, 10), one, (10, 10, 10), far) == 0
