# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The brain of a whole head is found where brains were fitted, and nothing is where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.heads import AFFINE, SPACING, make_head, put_into_skull
from helpers.heads import FINE as SHAPE
from numpy.typing import NDArray

from monai_dpmm_ad.normative import Volume, resample
from monai_dpmm_ad.normative.extraction import LARGER, check_extent, correlate_everywhere, find_brain, measure_volume
from monai_dpmm_ad.normative.intensity import divide_by_median
from monai_dpmm_ad.normative.lattice import Lattice

Array = NDArray[np.float32]
ML = SPACING**3 / 1000


@pytest.fixture(scope="module")
def reference() -> Volume:
    """A brain without noise, as the mean of a cohort is, with room around it."""
    volume = resample(make_head(SHAPE), AFFINE, SPACING, margin=10.0)
    return Volume(divide_by_median(volume), volume.weight, volume.lattice)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice coefficient."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_template_is_found_where_it_was_taken_from() -> None:
    rng = np.random.default_rng(0)
    scan = rng.random((12, 13, 14)).astype(np.float32)
    inside = rng.random((5, 4, 6)) > 0.3
    part = scan[3:8, 6:10, 2:8]
    template = np.where(inside, 7 - 2 * part, rng.random(part.shape)).astype(
        np.float32
    )  # turned over, and noise outside
    found = correlate_everywhere(scan, template, inside)
    assert found.shape == (8, 10, 9)
    assert np.unravel_index(found.argmin(), found.shape) == (3, 6, 2)
    assert found.min() == pytest.approx(-1, abs=1e-5)
    for place in ((0, 0, 0), (7, 9, 8), (4, 2, 5)):
        here = scan[tuple(slice(start, start + size) for start, size in zip(place, part.shape, strict=True))]
        assert found[place] == pytest.approx(np.corrcoef(here[inside], template[inside])[0, 1], abs=1e-5)
    assert not correlate_everywhere(np.ones((6, 6, 6), np.float32), template[:3, :3, :3], inside[:3, :3, :3]).any()


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (12.0, -8.0, 20.0)])
def test_the_brain_of_a_head(reference: Volume, angles: tuple[float, float, float]) -> None:
    head, brain, affine = put_into_skull(make_head(SHAPE, noise=0.1, seed=1), AFFINE, angles)
    assert (head > 0).sum() * ML > LARGER * measure_volume(reference)
    field = np.exp(np.linspace(-0.3, 0.3, head.shape[1]))[None, :, None].astype(np.float32)
    found = [find_brain(head * field, affine, reference) for _ in range(2)]
    assert found[0] is not None
    assert found[1] is not None
    assert np.array_equal(found[0], found[1])
    assert overlap(found[0], brain > 0) > 0.94


def test_a_wide_dark_cavity_at_the_brains_edge_stays(reference: Volume) -> None:
    brain = make_head(SHAPE, noise=0.1, seed=1)
    first = int(np.flatnonzero(brain.any((1, 2)))[0])
    places = np.indices(SHAPE) - np.array([first, SHAPE[1] // 2, SHAPE[2] // 2])[:, None, None, None]
    cavity = (brain > 0) & (SPACING * np.sqrt((places**2).sum(0)) < 25)
    brain[cavity] = 0.1
    head, _, affine = put_into_skull(brain, AFFINE, (0.0, 0.0, 0.0))
    found = find_brain(head, affine, reference)
    assert found is not None
    margin = [(size - own) // 2 for size, own in zip(head.shape, SHAPE, strict=True)]
    here = np.pad(cavity, [(size, size) for size in margin])
    assert found[here].mean() > 0.8
    assert overlap(found, np.pad(brain > 0, [(size, size) for size in margin])) > 0.94


def test_another_contrast_is_found_where_it_was_fitted_alone(reference: Volume) -> None:
    def turn_over(brain: Array) -> Array:
        return np.where(brain > 0, np.maximum(2.2 - brain, 0.1), 0).astype(np.float32)

    head, inside, affine = put_into_skull(turn_over(make_head(SHAPE, noise=0.1, seed=1)), AFFINE, (4.0, -3.0, 6.0))
    volume = resample(turn_over(make_head(SHAPE)), AFFINE, SPACING, margin=10.0)
    own = Volume(divide_by_median(volume), volume.weight, volume.lattice)
    found = find_brain(head, affine, own)
    assert found is not None
    assert overlap(found, inside > 0) > 0.94
    assert find_brain(head, affine, reference) is None


def test_what_is_no_head_around_such_a_brain_is_left_alone(reference: Volume) -> None:
    head, brain, affine = put_into_skull(make_head(SHAPE, noise=0.1, seed=1), AFFINE, (0.0, 0.0, 0.0))
    rng = np.random.default_rng(0)
    middle = head.shape[0] // 2
    noise = np.where(head > 0, rng.uniform(0.5, 1.5, head.shape), 0).astype(np.float32)
    others: dict[str, Array] = {
        "a brain that was cut out": brain,
        "half a head": head[:middle],
        "noise": noise,
        "a head with noise in it": np.where(brain > 0, noise, head),
        "one value": (head > 0).astype(np.float32),
        "nothing": np.zeros_like(head),
        "another organ": np.where(head > 0, 1 + 0.5 * np.sin(np.indices(head.shape).sum(0) / 3), 0).astype(np.float32),
    }
    assert {name for name, scan in others.items() if find_brain(scan, affine, reference) is not None} == set()


def test_a_whole_head_where_whole_heads_were_fitted_keeps_its_skull() -> None:
    head, _, affine = put_into_skull(make_head(SHAPE), AFFINE, (0.0, 0.0, 0.0))
    volume = resample(head, affine, 4.5, margin=10.0)
    whole = Volume(divide_by_median(volume), volume.weight, volume.lattice)
    other, _, affine = put_into_skull(make_head(SHAPE, noise=0.1, seed=1), AFFINE, (5.0, 0.0, 0.0))
    assert (other > 0).sum() * ML < LARGER * measure_volume(whole)
    assert find_brain(other, affine, whole) is None


@pytest.mark.parametrize(("scale", "refused"), [(0.01, True), (0.3, False), (1.0, False), (2.0, False), (5.0, True)])
def test_voxel_sizes_that_cannot_be_right_are_refused(scale: float, refused: bool) -> None:
    weight = np.ones((8, 8, 8), np.float32)
    reference = Volume(weight, weight, Lattice.indices(weight.shape))
    affine = np.diag([scale, scale, scale, 1.0])
    if refused:
        with pytest.raises(ValueError, match="look at its voxel sizes"):
            check_extent(weight, affine, reference)
    else:
        assert check_extent(weight, affine, reference) == pytest.approx(scale**3)
