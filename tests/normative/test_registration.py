# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.heads import SHAPE, affine_of, make_head
from numpy.typing import NDArray

from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample
from monai_dpmm_ad.normative.reference import build_reference
from monai_dpmm_ad.normative.registration import (
    find_box,
    find_cut,
    fit_box,
    measure_quality,
    pad_where_it_ends,
    principal_axes,
    register,
    turn,
)

Matrix = NDArray[np.float64]
COHORT = Path(__file__).parents[2] / "../shared/data/ixi_t1_2mm"


@pytest.fixture(scope="module")
def reference() -> Volume:
    return resample(make_head(), affine_of(), 5.0, margin=10.0)


def _points() -> Matrix:
    """Some places in the head, mm."""
    return np.random.default_rng(0).uniform(-40, 40, (50, 3))


def _cut(image: NDArray[np.float32], affine: Matrix, axis: int, kept: slice) -> tuple[NDArray[np.float32], Matrix]:
    """A part of an image, and its affine."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, axis] * (kept.start or 0)
    return np.ascontiguousarray(image[(slice(None),) * axis + (kept,)]), moved


def _error(frame: Frame, moved: Matrix) -> float:
    """How far, in mm on average, the frame misses: ``moved`` brought the places to where the scan shows them."""
    places = _points()
    return float(np.linalg.norm(frame.locate(places @ moved[:3, :3].T + moved[:3, 3]) - places, axis=1).mean())


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (0, -30, 0), (10, 0, 30), (90, 0, 0), (0, 0, 180)])
def test_known_pose_is_recovered(reference: Volume, angles: tuple[float, float, float]) -> None:
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = turn(angles) * 1.08, (12, -7, 20)
    frame = register(make_head(), moved @ affine_of(), reference)
    assert frame.kind == "affine"
    volume = resample(make_head(), moved @ affine_of(), 5.0)
    true_pose = measure_quality(reference, pad_where_it_ends(volume, find_cut(volume)), moved)
    assert frame.quality == pytest.approx(true_pose, abs=0.01)
    assert _error(frame, moved) < 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_orientation_of_the_array_does_not_matter(reference: Volume, axis: int) -> None:
    head = make_head()
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    plain = register(head, affine_of(), reference)
    flipped = register(np.ascontiguousarray(np.flip(head, axis)), affine_of() @ flip, reference)
    np.testing.assert_allclose(flipped.locate(_points()), plain.locate(_points()), atol=1e-2)


def test_thick_slices_are_registered(reference: Volume) -> None:
    thick = make_head()[:, :, 1::2]
    affine = affine_of() @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 1], [0, 0, 0, 1.0]])
    assert _error(register(thick, affine, reference), np.eye(4)) < 2


@pytest.mark.parametrize(("axis", "kept"), [(2, slice(None, 20)), (2, slice(11, None)), (1, slice(20, None))])
def test_part_of_a_head_is_registered(reference: Volume, axis: int, kept: slice) -> None:
    frame = register(*_cut(make_head(), affine_of(), axis, kept), reference)
    assert frame.kind == "affine"
    assert _error(frame, np.eye(4)) < 3


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_few_slices_have_some_place(reference: Volume, count: int) -> None:
    frame = register(*_cut(make_head(), affine_of(), 2, slice(14, 14 + count)), reference)
    assert frame.kind in ("affine", "box")
    assert np.isfinite(frame.matrix).all()


@pytest.fixture(scope="module")
def brains() -> tuple[Volume, NDArray[np.float32], Matrix, Frame]:
    """A real brain to register to; another, cut out as well, its affine, and its frame."""
    if not COHORT.exists():
        pytest.skip(f"needs the real heads in {COHORT}")
    found = []
    for path in sorted((COHORT / "t1").glob("*.nii.gz"))[:2]:
        image = nib.load(path)
        labels = np.asarray(nib.load(COHORT / "labels" / path.name).dataobj)
        values = np.where(labels > 0, np.asarray(image.dataobj, dtype=np.float32), 0)
        found.append((values / np.median(values[values > 0]), image.affine))
    target = resample(*found[0], 5.0, margin=15.0)
    return target, *found[1], register(*found[1], target)


@pytest.mark.parametrize(("axis", "upper"), [(0, False), (1, True), (2, True)])
def test_half_of_a_real_brain_is_registered(
    brains: tuple[Volume, NDArray[np.float32], Matrix, Frame], axis: int, upper: bool
) -> None:
    target, image, affine, whole = brains
    inside = np.argwhere(image > 0)
    middle = int(np.median(inside[:, axis]))
    part = register(*_cut(image, affine, axis, slice(middle, None) if upper else slice(None, middle)), target)
    places = inside[(inside[:, axis] >= middle) == upper][::500] @ affine[:3, :3].T + affine[:3, 3]
    assert np.linalg.norm(part.locate(places) - whole.locate(places), axis=1).mean() < 8


def test_a_part_must_agree_better_than_the_limit(reference: Volume) -> None:
    image, affine = _cut(make_head(noise=0.6, seed=3), affine_of(), 2, slice(14, None))
    quality = register(image, affine, reference).quality
    assert register(image, affine, reference, limit=quality - 0.1 * (1 - quality)).kind == "box"
    assert register(image, affine, reference, limit=1 - 3 * (1 - quality)).kind == "affine"


def test_same_scan_gives_the_same_bits(reference: Volume) -> None:
    head = make_head(noise=0.1)
    first, second = (register(head, affine_of(), reference) for _ in range(2))
    assert first.to_dict() == second.to_dict()


def test_what_is_unlike_the_reference_falls_back_to_its_box(reference: Volume) -> None:
    noise = np.random.default_rng(0).uniform(0.01, 1, SHAPE).astype(np.float32)
    frame = register(noise, affine_of(), reference, limit=0.9)
    assert frame.kind == "box"
    assert frame.quality < 0.9


def test_box_is_brought_onto_the_references(reference: Volume) -> None:
    stretched = np.diag([1.3, 0.8, 1.1, 1.0])
    stretched[:3, 3] = 30, 0, -9
    frame = fit_box(make_head(), stretched @ affine_of(), reference)
    low, high = find_box(resample(make_head(), stretched @ affine_of(), 5.0))
    for corner, target in zip((low, high), find_box(reference), strict=True):
        np.testing.assert_allclose(frame.locate(corner), target, atol=1e-6)


def test_reference_does_not_depend_on_the_order_of_scans() -> None:
    volumes = []
    for seed in range(3):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn((6.0 * seed, 0, -4.0 * seed)) * (1 + 0.03 * seed), 5.0 * seed
        volumes.append(resample(make_head(noise=0.05, seed=seed), pose @ affine_of(), 6.0))
    one, two = (build_reference(order, (20, 24, 20), rounds=1) for order in (volumes, volumes[::-1]))
    assert one.lattice == two.lattice
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)


def test_empty_cohort_has_no_reference() -> None:
    with pytest.raises(ValueError, match="`volumes` must hold at least one scan"):
        build_reference([], (8, 8, 8))


def test_lattice_keeps_a_constant_and_its_place() -> None:
    image = np.zeros((12, 12, 12), np.float32)
    image[2:10, 2:10, 2:10] = 3.0
    volume = resample(image, np.diag([2.0, 2.0, 2.0, 1.0]), 4.0)
    assert volume.values[volume.weight > 0.01] == pytest.approx(3.0, abs=1e-5)
    low, high = find_box(volume)
    np.testing.assert_allclose((low + high) / 2, [11, 11, 11], atol=1e-6)


def test_what_fills_no_cell_has_no_axes() -> None:
    thin = Volume(np.full((4, 4, 1), 0.4, np.float32), np.full((4, 4, 1), 0.4, np.float32), Lattice.indices((4, 4, 1)))
    assert np.array_equal(principal_axes(thin), np.eye(3))
