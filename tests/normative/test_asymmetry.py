# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Left against right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.heads import affine_of, make_head
from numpy.typing import NDArray

from monai_dpmm_ad.normative import normative_map
from monai_dpmm_ad.normative.lattice import resample
from monai_dpmm_ad.normative.normative_map import NormativeMap

Array = NDArray[np.float32]
SMALL = {"_REFERENCE": (24, 28, 24), "_FINE": (40, 48, 40), "_COARSE": (20, 24, 20)}
LESION, ACROSS = (slice(8, 12), slice(20, 24), slice(12, 16)), (slice(22, 26), slice(20, 24), slice(12, 16))


@pytest.fixture(scope="module", autouse=True)
def _small_lattices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, shape in SMALL.items():
            patch.setattr(normative_map, name, shape)
        yield


def make_even_head(seed: int, noise: float = 0.3) -> Array:
    """A head whose sides differ by its noise alone; x runs along the first axis."""
    head = make_head()
    rough = make_head(noise=noise, seed=seed) - head
    return np.maximum((head + head[::-1]) / 2 + rough, 0).astype(np.float32)


def tilt(angle: float) -> NDArray[np.float64]:
    """The affine of a head that is turned about z by degrees."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return turn @ affine_of()


@pytest.fixture(scope="module")
def normative() -> NormativeMap:
    fitted, affine = NormativeMap("affine", asymmetry="on"), affine_of()
    scans = {str(seed): make_even_head(seed) for seed in range(6)}
    fitted.set_reference([resample(scans["0"], affine, 5.0)])
    frames = {name: fitted.find_frame(image, affine) for name, image in scans.items()}
    for name, image in scans.items():
        fitted.observe_intensity(name, image, affine, frames[name])
    fitted.finish_intensity()
    for name, image in scans.items():
        fitted.observe_deviation(name, image, affine, frames[name])
        points = np.argwhere(image > 0) @ affine[:3, :3].T + affine[:3, 3]
        fitted.observe_scores(name, points, image[image > 0], frames[name])
    fitted.finish_deviation()
    fitted.finish_scores()
    return fitted


def judge(normative: NormativeMap, image: Array) -> Array:
    """The channel of asymmetry."""
    channels = normative.standardize(image, image, affine_of(), normative.find_frame(image, affine_of()))
    assert len(channels) == len(normative.channel_weights) == 4
    return np.asarray(channels[3])


@pytest.mark.parametrize("angle", [0.0, 12.0])
def test_the_mirror_follows_the_head_however_it_lies(angle: float) -> None:
    tilted = NormativeMap("affine", asymmetry="on")
    tilted.set_reference([resample(make_even_head(0, noise=0.0), tilt(angle), 5.0)])
    assert tilted.asymmetry is not None
    lattice = tilted.reference.lattice
    places = lattice.points()[tilted.reference.weight > 0.5]
    mirrored = tilted.asymmetry.mirror(places, lattice)
    turn = tilt(angle)[:3, :3] / 5
    expected = places @ (turn @ np.diag([-1.0, 1, 1]) @ turn.T).T
    assert np.abs(mirrored - expected).mean() < 2.5  # half a voxel
    assert np.abs(tilted.asymmetry.mirror(mirrored, lattice) - places).mean() < 1


def test_sides_that_are_not_alike_are_compared_only_when_asked() -> None:
    uneven = make_even_head(0, noise=0.0)
    uneven[:14, :, ::3] *= 3
    uneven[:14, ::2] *= 0.2
    for asked, image, kept in (("auto", make_even_head(0), True), ("auto", uneven, False), ("on", uneven, True)):
        normative = NormativeMap("affine", asymmetry=asked)
        normative.set_reference([resample(image, affine_of(), 5.0)])
        assert (normative.asymmetry is not None) == kept


def test_a_lesion_counts_where_it_is_and_not_across(normative: NormativeMap) -> None:
    image = make_even_head(50)
    plain = judge(normative, image)
    image[LESION] *= 1.6
    found = judge(normative, image)
    assert found[LESION].mean() > plain[LESION].mean() + 3
    assert found[ACROSS].mean() < 0.5
    both = image.copy()
    both[ACROSS] *= 1.6
    assert judge(normative, both)[LESION].mean() < found[LESION].mean() - 2


def test_healthy_sides_differ_as_those_of_the_fitted_heads(normative: NormativeMap) -> None:
    values = np.concatenate([judge(normative, image)[image > 0] for image in map(make_even_head, (60, 61, 62))])
    assert abs(values.mean()) < 0.5
    assert values.std() < 1.5
    assert (values > 3).mean() < 0.02


def test_it_is_kept_and_off_unless_asked_for(normative: NormativeMap) -> None:
    image, affine = make_even_head(70), affine_of()
    again = NormativeMap("affine", asymmetry="on")
    again.load_state_dict(normative.state_dict())
    frame = again.find_frame(image, affine)
    finished = normative(image, image, affine, frame)
    np.testing.assert_array_equal(again(image, image, affine, frame), finished)
    plain = NormativeMap("affine")
    assert plain.asymmetry is None
    plain.load_state_dict({key: value for key, value in normative.state_dict().items() if "asymmetry" not in key})
    channels = normative.standardize(image, image, affine, frame)[:3]
    for one, two in zip(channels, plain.standardize(image, image, affine, frame), strict=True):
        assert torch.equal(one, two)
    assert (plain(image, image, affine, frame) <= finished).all()
