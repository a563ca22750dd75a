# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Slopes on age and sex, place by place, and what a normative map makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.heads import affine_of, make_head
from numpy.typing import NDArray

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.normative import normative_map, trend_map
from monai_dpmm_ad.normative.covariates import Design
from monai_dpmm_ad.normative.lattice import resample
from monai_dpmm_ad.normative.trend import Trend
from monai_dpmm_ad.normative.trend_map import TrendMap

SHAPE = (3, 4, 2)
PEOPLE = [{"age": float(age), "sex": sex} for age in range(20, 80, 5) for sex in "FM"]


def _cohort(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    """Terms ``(n, 3)``, values ``(n, 2, *SHAPE)`` and weights ``(n, *SHAPE)`` of 30 scans."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 3))
    slopes = rng.normal(size=(2, 3, *SHAPE))
    values = 3 + np.einsum("nt,ctxyz->ncxyz", x, slopes) + 0.1 * rng.normal(size=(30, 2, *SHAPE))
    return x, values.astype(np.float32), rng.uniform(0.2, 1, (30, *SHAPE)).astype(np.float32)


def _fit(trend: Trend, cohort: tuple[Any, ...], order: NDArray[np.int64]) -> Trend:
    for i in order:
        trend.update(*(part[i] for part in cohort))
    trend.finish()
    return trend


def test_slopes_are_those_of_ridge_regression_at_each_place() -> None:
    cohort = _cohort()
    trend = _fit(Trend(SHAPE, 2, ridge=2.0, smoothing=0.0), cohort, np.arange(30))
    x, values, weight = cohort
    for place in np.ndindex(*SHAPE):
        w = weight[(slice(None), *place)]
        centred = x - w @ x / w.sum()
        for channel in range(2):
            v = values[(slice(None), channel, *place)]
            products = centred.T @ (w[:, None] * centred) + 2.0 * np.eye(3)
            expected = np.linalg.solve(products, centred.T @ (w * (v - w @ v / w.sum())))
            np.testing.assert_allclose(trend.slopes[(channel, slice(None), *place)], expected, atol=2e-3)
    terms = np.array([1.0, -0.5, 2.0])
    expected = np.einsum("ctxyz,t->cxyz", trend.slopes.float().numpy(), terms)
    np.testing.assert_allclose(trend.expect(terms), expected, atol=1e-6)


def test_order_does_not_matter_and_an_update_adds_up() -> None:
    cohort = _cohort()
    trend, other = (Trend(SHAPE, 2) for _ in range(2))
    _fit(trend, cohort, np.arange(30))
    _fit(other, cohort, np.arange(30)[::-1])
    assert all((a == b).all() for a, b in zip(trend.buffers(), other.buffers(), strict=True))
    whole = (cohort[0], cohort[1], np.ones_like(cohort[2]))
    together = _fit(Trend(SHAPE, 2, ridge=1.0), whole, np.arange(30))
    updated = Trend(SHAPE, 2, ridge=1.0)
    for half in (np.arange(15), np.arange(15, 30)):
        _fit(updated, whole, half)
    assert int(updated.num_scans) == 30
    np.testing.assert_allclose(updated.slopes, together.slopes, atol=0.12)  # each half has a mean of its own
    one = _fit(Trend(SHAPE, 2, ridge=1.0), whole, np.arange(15))
    assert (updated.slopes - together.slopes).abs().mean() < (one.slopes - together.slopes).abs().mean()


def test_two_processes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _cohort()
    together = _fit(Trend(SHAPE, 2), cohort, np.arange(30))
    mine, other = Trend(SHAPE, 2), Trend(SHAPE, 2)
    for i in range(30):
        (mine if i % 2 else other).update(*(part[i] for part in cohort))
    theirs = other._sums
    monkeypatch.setattr("monai_dpmm_ad.utils.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("monai_dpmm_ad.utils.distributed.gather_lists", lambda items: [*items, *theirs.items()])
    mine.finish()
    assert int(mine.num_scans) == 30
    assert all(torch.equal(a, b) for a, b in zip(mine.buffers(), together.buffers(), strict=True))


def test_few_scans_say_little_and_another_scanner_is_no_age() -> None:
    x, values, weight = _cohort()
    for few in (1, 2):
        trend = _fit(Trend(SHAPE, 2), (x, values, weight), np.arange(few))
        assert trend.slopes.abs().max() < 1.0
    assert (_fit(Trend(SHAPE, 2, smoothing=0.0), (x, values, weight), np.arange(1)).slopes.abs() < 1e-3).all()
    # The second cohort is older and brighter; within each cohort age does nothing.
    trend = Trend(SHAPE, 1)
    for shift in (0.0, 2.0):
        older = x[:, :] + [shift, 0, 0]
        _fit(trend, (older, np.full((30, 1, *SHAPE), shift, np.float32), weight), np.arange(30))
    assert (trend.slopes.abs() < 1e-3).all()
    with pytest.raises(NotFittedError, match="needs a healthy scan with known covariates"):
        trend.finish()


def test_another_site_is_no_age_within_one_fit() -> None:
    x, values, weight = _cohort()
    one_site, two_sites = Trend(SHAPE, 2), Trend(SHAPE, 2)
    site = np.arange(30) % 2
    moved, older = values + 5 * site[:, None, None, None, None].astype(np.float32), x + 2.0 * site[:, None]
    for i in range(30):
        one_site.update(older[i], moved[i], weight[i])
        two_sites.update(older[i], moved[i], weight[i], site=int(site[i]))
    one_site.finish()
    two_sites.finish()
    truth = _fit(Trend(SHAPE, 2), (x, values, weight), np.arange(30)).slopes
    errors = [float((trend.slopes - truth).abs().mean()) for trend in (one_site, two_sites)]
    assert errors[1] < 0.1, "each site has a mean of its own"
    assert errors[0] > 3 * errors[1]
    assert int(two_sites.num_scans) == 30


def test_terms_are_about_0_and_what_is_not_known_is_0() -> None:
    design = Design()
    design.observe(PEOPLE)
    terms = np.array([design.traits(person).terms for person in PEOPLE])
    np.testing.assert_allclose(terms.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(terms.std(0)[[0, 2]], 1)
    assert (design.traits({}).terms == 0).all()
    assert design.traits_if_known({"age": None}) is None
    old = [design.traits({"age": age, "sex": "F"}).terms for age in (99.0, 75.0)]
    np.testing.assert_array_equal(*old)
    assert design.describe({"age": 99.0}) == "age 99 (fitted 20 to 75), sex not known: the cohort's mean"
    assert design.describe({"age": 30.0, "sex": "M"}) == "age 30, sex M"


def test_a_column_in_which_all_are_alike_is_not_asked_for() -> None:
    design = Design()
    design.observe([{"age": 30.0, "sex": "F"}, {"age": 40.0, "sex": "F"}])
    assert design.names == ("age",)
    assert design.traits({"age": 35.0, "sex": "M"}).terms[2] == 0
    with pytest.raises(ValueError, match="must tell the fitted people apart, got 2"):
        Design().observe([{"age": 30.0}, {"age": 30.0}])


@pytest.fixture(scope="module")
def _small_lattices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, shape in {"_REFERENCE": (24, 28, 24), "_FINE": (40, 48, 40), "_COARSE": (20, 24, 20)}.items():
            patch.setattr(normative_map, name, shape)
        patch.setattr(trend_map, "_SHAPE", (18, 21, 18))
        yield


def _head(person: dict[str, Any], seed: int) -> NDArray[np.float32]:
    """A head whose core darkens with age."""
    image = make_head(noise=0.2, seed=seed)
    image[8:18, 14:26, 8:18] *= 1 - 0.008 * (person["age"] - 20)
    return image


def _fit_map(people: list[dict[str, Any]], joined: bool, factor: float = 1.0) -> TrendMap:
    normative, affine = TrendMap("affine"), affine_of()
    normative.design.observe(people)
    scans = [_head(person, seed) for seed, person in enumerate(people)]
    normative.set_reference([resample(scans[0], affine, 5.0)])
    frames = [normative.find_frame(image, affine) for image in scans]
    terms = [normative.design.traits(person) if joined else None for person in people]
    index = np.argwhere(scans[0] > 0)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    scores = [np.float32(factor) * np.abs(1.5 - image[tuple(index.T)]) for image in scans]
    normative.scores.set_unit(scores[0])
    for image, frame, x, score in zip(scans, frames, terms, scores, strict=True):
        if x is not None:
            normative.observe_trend("intensity", image, affine, frame, x)
            normative.observe_score_trend(points, score, frame, x)
    if joined:
        normative.finish_trends("intensity", "scores")
    for number, (image, frame, x, score) in enumerate(zip(scans, frames, terms, scores, strict=True)):
        normative.observe_intensity(str(number), image, affine, frame, x)
        normative.observe_scores(str(number), points, score, frame, x)
    normative.finish_intensity()
    normative.finish_scores()
    for part in (True, False):
        for number, (image, frame, x) in enumerate(zip(scans, frames, terms, strict=True)):
            if part and x is not None:
                normative.observe_trend("deviation", image, affine, frame, x)
            elif not part:
                normative.observe_deviation(str(number), image, affine, frame, x)
        if part and joined:
            normative.finish_trends("deviation")
    normative.finish_deviation()
    return normative


@pytest.mark.usefixtures("_small_lattices")
def test_an_old_head_is_judged_against_old_heads() -> None:
    people, affine = PEOPLE[::2], affine_of()
    old, core = {"age": 75.0, "sex": "F"}, (slice(8, 18), slice(14, 26), slice(8, 18))
    image = _head(old, 50)
    peaks = {}
    for joined in (False, True):
        normative = _fit_map(people, joined)
        traits = normative.design.traits(old) if joined else None
        finished = normative(np.abs(1.5 - image), image, affine, normative.find_frame(image, affine), traits=traits)
        peaks[joined] = float(finished[core].mean())
    lesion = (slice(10, 14), slice(18, 22), slice(10, 14))
    image[lesion] *= 0.4
    found = normative(np.abs(1.5 - image), image, affine, normative.find_frame(image, affine), traits=traits)
    assert found[lesion].mean() > 2 * finished[lesion].mean()
    assert peaks[True] < 0.8 * peaks[False]
    young, twin = normative.design.traits({"age": 20.0}), normative.find_frame(image, affine)
    drawn = [normative.draw_healthy(image, affine, twin, x)[core].mean() for x in (young, traits)]
    assert drawn[0] > 1.2 * drawn[1], "the twin is of the same age"


@pytest.mark.usefixtures("_small_lattices")
def test_the_unit_of_the_scores_does_not_matter() -> None:
    people, person, affine = PEOPLE[::2], {"age": 75.0, "sex": "F"}, affine_of()
    image = _head(person, 50)
    scores, found = np.abs(1.5 - image), []
    for factor in (1.0, 1e-6):
        normative = _fit_map(people, True, factor)
        frame, traits = normative.find_frame(image, affine), normative.design.traits(person)
        found.append(normative(np.float32(factor) * scores, image, affine, frame, traits=traits))
    np.testing.assert_allclose(found[1], found[0], rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("_small_lattices")
def test_buffers_stay_below_10_mb_and_do_not_grow() -> None:
    empty, fitted = TrendMap("affine"), _fit_map(PEOPLE[:4], True)
    halves = 2**3  # these lattices are half as fine along each axis
    assert sum(buffer.nbytes for buffer in empty.buffers()) * halves < 10e6
    shapes = {name: buffer.shape for name, buffer in empty.state_dict().items()}
    assert shapes == {name: buffer.shape for name, buffer in fitted.state_dict().items()}
