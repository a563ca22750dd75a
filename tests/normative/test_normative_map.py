# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.heads import SHAPE, affine_of, make_head
from numpy.typing import NDArray

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.normative import normative_map
from monai_dpmm_ad.normative.lattice import resample
from monai_dpmm_ad.normative.normative_map import NormativeMap
from monai_dpmm_ad.ops.slabs import slab_bounds

Array = NDArray[np.float32]
SMALL = {"_REFERENCE": (24, 28, 24), "_FINE": (40, 48, 40), "_COARSE": (20, 24, 20)}


@pytest.fixture(scope="module", autouse=True)
def _small_lattices() -> Iterator[None]:
    """Heads of these tests have voxels of 5 mm: lattices half as fine serve them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, shape in SMALL.items():
            patch.setattr(normative_map, name, shape)
        yield


def _scores(seed: int) -> Array:
    """A detector's map that always lights up in the bright part of the head."""
    head = make_head()
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, SHAPE)
    return np.where(head > 0, np.maximum(2 * head**2 + noise, 0.01), 0).astype(np.float32)


def _fit(names: list[int], frame: str = "affine", factor: float = 1.0) -> NormativeMap:
    normative, affine = NormativeMap(frame), affine_of()
    normative.scores.set_unit(np.float32(factor) * _scores(0)[_scores(0) > 0])
    scans = {seed: make_head(noise=0.3, seed=seed) for seed in names}
    ordered = [scans[seed] for seed in sorted(scans)]
    normative.set_reference([resample(image, affine, 5.0) for image in ordered[:1]])
    frames = {seed: normative.find_frame(image, affine) for seed, image in scans.items()}
    for seed, image in scans.items():
        normative.observe_intensity(str(seed), image, affine, frames[seed])
    normative.finish_intensity()
    for seed, image in scans.items():
        normative.observe_deviation(str(seed), image, affine, frames[seed])
    normative.finish_deviation()
    for seed, image in scans.items():
        index = np.argwhere(image > 0)
        scores = np.float32(factor) * _scores(seed)[tuple(index.T)]
        normative.observe_scores(str(seed), index @ affine[:3, :3].T + affine[:3, 3], scores, frames[seed])
    normative.finish_scores()
    return normative


@pytest.fixture(scope="module")
def normative() -> NormativeMap:
    return _fit(list(range(6)))


def test_a_lesion_outranks_what_is_always_bright(normative: NormativeMap) -> None:
    image, affine = make_head(noise=0.3, seed=50), affine_of()
    image[10:14, 20:24, 12:16] *= 1.6
    scores = _scores(50)
    frame = normative.find_frame(image, affine)
    finished = normative(scores, image, affine, frame)
    lesion = np.zeros(SHAPE, bool)
    lesion[10:14, 20:24, 12:16] = True
    usual = (make_head() > 1.5) & ~lesion
    assert scores[usual].mean() > scores[lesion].mean()
    assert finished[lesion].mean() > 3 * finished[usual].mean()
    assert (finished[image == 0] == 0).all()
    assert (finished[image > 0] > 0).all()


def test_the_healthy_twin_shows_no_lesion_and_has_the_scan_s_own_units(normative: NormativeMap) -> None:
    image, affine = 200 * make_head(noise=0.3, seed=50), affine_of()
    frame = normative.find_frame(image, affine)
    plain = normative.draw_healthy(image, affine, frame)
    image[10:14, 20:24, 12:16] *= 1.6
    twin = normative.draw_healthy(image, affine, normative.find_frame(image, affine))
    lesion = (slice(10, 14), slice(20, 24), slice(12, 16))
    assert image[lesion].mean() > 1.5 * twin[lesion].mean(), "nothing of the lesion is left"
    assert twin[lesion].mean() == pytest.approx(200 * make_head()[lesion].mean(), rel=0.1)
    assert (twin[image == 0] == 0).all()
    assert (twin[image > 0] > 0).all()
    inside = make_head() > 0
    assert np.corrcoef(plain[inside], make_head()[inside])[0, 1] > 0.7


def test_another_scanner_is_matched_before_it_is_judged(normative: NormativeMap) -> None:
    image, affine = make_head(noise=0.3, seed=50), affine_of()
    image[10:14, 20:24, 12:16] *= 1.6
    image /= 3 * np.median(image[image > 0])
    across = np.linspace(-0.5, 0.5, SHAPE[0], dtype=np.float32)[:, None, None]
    other = np.where(image > 0, (3 * image) ** 0.6 * np.exp(across) / 3, 0).astype(np.float32)
    match, start = normative.match(other, affine)
    assert match is not None
    matched = match.apply(other, affine)
    inside = image > 0

    def difference(values: Array) -> float:
        scaled = values[inside] / np.median(values[inside]) - image[inside] / np.median(image[inside])
        return float(np.abs(scaled).mean())

    assert difference(matched) < 0.5 * difference(other)
    assert normative.find_frame(matched, affine, start).quality > normative.find_frame(other, affine).quality
    plain, known = normative.find_frame(image, affine), normative.find_frame(image, affine, start)
    assert np.abs(plain.matrix - known.matrix).max() < 2  # mm


def test_order_of_scans_and_state_do_not_matter(normative: NormativeMap) -> None:
    other = _fit(list(reversed(range(6))))
    again = NormativeMap("affine")
    again.load_state_dict(normative.state_dict())
    image, affine = make_head(noise=0.3, seed=50), affine_of()
    frame = normative.find_frame(image, affine)
    for copy in (other, again):
        np.testing.assert_array_equal(
            copy(_scores(50), image, affine, frame), normative(_scores(50), image, affine, frame)
        )


def test_the_unit_of_the_scores_does_not_matter(normative: NormativeMap) -> None:
    other, scores = _fit(list(range(6)), factor=1e-6), _scores(50)
    image, affine = make_head(noise=0.3, seed=50), affine_of()
    frame = normative.find_frame(image, affine)
    assert float(normative.scores.unit) == 1
    for judge in (lambda one, scan: one(scan, image, affine, frame), lambda one, scan: one.judge_anywhere(scan)):
        np.testing.assert_allclose(judge(other, 1e-6 * scores), judge(normative, scores), rtol=0.02, atol=0.02)


def test_orientation_of_the_array_does_not_matter(normative: NormativeMap) -> None:
    image, scores, affine = make_head(noise=0.3, seed=50), _scores(50), affine_of()
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    frame = normative.find_frame(image, affine)
    plain = normative(scores, image, affine, frame)
    flipped = normative(scores[::-1].copy(), image[::-1].copy(), affine @ flip, frame)[::-1]
    np.testing.assert_allclose(flipped, plain, atol=1e-3)


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_the_size_of_slabs_does_not_matter(
    normative: NormativeMap, monkeypatch: pytest.MonkeyPatch, tilt: float
) -> None:
    """The places of a slab's voxels are reckoned from its start: rounding may move a map's last place, no more."""
    image, affine = make_head(noise=0.3, seed=50), affine_of()
    affine[:2, :2] = affine[:2, :2] @ [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    frame = normative.find_frame(image, affine)
    layer, maps = SHAPE[1] * SHAPE[2], []
    for layers in (SHAPE[0], 5, 1):
        monkeypatch.setattr(slab_bounds, "__defaults__", (layers * layer,))
        assert len(list(slab_bounds(SHAPE))) == -(-SHAPE[0] // layers)
        maps.append(normative(_scores(50), image, affine, frame))
    assert maps[0].max() > 1
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=1e-6)


def test_sides_and_frames(normative: NormativeMap) -> None:
    image, affine = make_head(noise=0.3, seed=50), affine_of()
    frame = normative.find_frame(image, affine)
    off = NormativeMap("affine", side="off")
    off.load_state_dict(normative.state_dict())
    assert len(off.standardize(_scores(50), image, affine, frame)) == 1
    assert len(normative.standardize(_scores(50), image, affine, frame)) == 3
    for kind in ("box", "deformed"):
        other = NormativeMap(kind)
        other.load_state_dict(normative.state_dict())
        assert other.find_frame(image, affine).kind == kind


def test_buffers_are_small_and_fixed(normative: NormativeMap) -> None:
    empty = NormativeMap("affine")
    halves = 2**3  # the lattices of these tests are half as fine along each axis
    assert sum(buffer.nbytes for buffer in empty.buffers()) * halves < 10e6
    shapes = {name: buffer.shape for name, buffer in empty.state_dict().items()}
    assert shapes == {name: buffer.shape for name, buffer in normative.state_dict().items()}
    assert all(isinstance(value, torch.Tensor) for value in normative.state_dict().values())


def test_unfitted_map_says_so() -> None:
    with pytest.raises(NotFittedError, match="The normative map has no reference"):
        NormativeMap().find_frame(make_head(), affine_of())
    with pytest.raises(ValueError, match="`frame` must be one of"):
        NormativeMap("afine")
