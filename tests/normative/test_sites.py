# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Random offsets of a cohort's sites: found where many scans agree, held back where one says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.data.sites import MOST_SITES
from monai_dpmm_ad.normative.covariates import Design, Traits
from monai_dpmm_ad.normative.site import NUM_CHANNELS, SITE_SHAPE, SiteCells
from monai_dpmm_ad.normative.sites import Sites
from monai_dpmm_ad.normative.trend_map import TrendMap

#: Standard deviations between people of a site: of a place, and within one.
PERSON, WITHIN = 0.3, 0.4


def _scans(number: int, offset: float, seed: int, within: float = WITHIN) -> list[SiteCells]:
    """Healthy scans whose deviates lie around an offset that is twice as large in one half."""
    rng = np.random.default_rng(seed)
    field = np.full((NUM_CHANNELS, *SITE_SHAPE), offset)
    field[:, :, :6] *= 2
    scans = []
    for _ in range(number):
        mean = field + rng.normal(0, PERSON, field.shape)
        scans.append(SiteCells(mean, mean**2 + within**2, np.ones(SITE_SHAPE)))
    return scans


def _offset(sites: Sites, site: int) -> tuple[float, float]:
    """Of the plain and of the doubled half."""
    offset = sites.offset[site].float()
    return float(offset[:, :, 7:].mean()), float(offset[:, :, :5].mean())


def test_offsets_of_sites_are_recovered() -> None:
    sites = Sites(3)
    sites.learn({0: _scans(10, 0.8, 0), 1: _scans(10, -0.4, 1), 2: _scans(10, 0.0, 2)})
    assert _offset(sites, 0) == pytest.approx((0.8, 1.6), abs=0.15)
    assert _offset(sites, 1) == pytest.approx((-0.4, -0.8), abs=0.15)
    assert _offset(sites, 2) == pytest.approx((0.0, 0.0), abs=0.05)
    inside = (PERSON**2 + WITHIN**2) ** 0.5
    assert float(sites.spread.float().mean()) == pytest.approx(inside, rel=0.25)
    assert sites.num_scans.tolist() == [10, 10, 10]


def test_an_offset_of_one_scan_is_held_back_and_more_are_believed() -> None:
    found = []
    for number in (1, 3, 10):
        sites = Sites(2)
        sites.learn({0: _scans(number, 0.6, 0), 1: _scans(10, 0.0, 1)})
        found.append(np.mean(_offset(sites, 0)))
    assert 0.2 * 0.9 < found[0] < 0.95 * found[1]
    assert found[1] < found[2] < 1.05 * 0.9, "of one site the mean offset is 0.9"
    noise = Sites(2)
    noise.learn({0: _scans(1, 0.0, 0), 1: _scans(10, 0.0, 1)})
    raw = np.abs(_scans(1, 0.0, 0)[0].mean).mean()
    assert float(noise.offset[0].abs().mean()) < 0.25 * raw, "a person's own is not taken for the site's"


def test_a_noisier_site_is_wider_but_not_by_one_scan() -> None:
    sites = Sites(2)
    sites.learn({0: _scans(10, 0.0, 0, within=1.2), 1: _scans(10, 0.0, 1, within=0.4)})
    assert sites.factor[0].min() > 1.5 * sites.factor[1].max()
    sites.learn({0: _scans(1, 0.0, 0, within=1.2), 1: _scans(10, 0.0, 1, within=0.4)})
    one = sites.of(0)
    assert one is not None
    assert float(one.spread.mean()) < 1.0


def test_a_site_without_scans_is_unknown_and_nothing_is_learnt_from_none() -> None:
    sites = Sites(2)
    sites.learn({1: _scans(4, 0.5, 0)})
    assert sites.of(0) is None
    assert sites.of(None) is None
    assert sites.of(1) is not None
    sites.learn({})
    assert sites.of(1) is None
    assert not sites.offset.any()


def test_scans_of_a_site_are_judged_by_its_offset_and_others_by_the_cohort() -> None:
    normative = TrendMap("affine")
    normative.know_sites(("north", "south"))
    assert normative.sites is not None
    normative.sites.learn({0: _scans(10, 0.8, 0), 1: _scans(10, -0.8, 1)})
    design = normative.design
    assert design.names == ("site",)
    known, stranger = (normative._shift_of(design.traits({"site": name})) for name in ("north", "east"))
    assert stranger is None
    assert known is not None
    parts = known.adjust(
        [torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2), torch.full((2, 2, 2, 2), 0.8)], lambda f: f[:, 4:6, 8:10, 4:6]
    )
    assert float(parts[0].mean()) == pytest.approx(0.8, abs=0.15)
    assert float(parts[2].abs().mean()) < 0.4, "what is usual there is not unusual"
    assert design.describe({"site": "north"}) == "site north"
    assert design.describe({"site": "east"}) == "site east not fitted: the cohort's mean"
    assert design.describe({}) == "site not known: the cohort's mean"
    assert normative._shift_of(Traits(np.zeros(3))) is None


def test_two_sites_are_found_and_one_is_none() -> None:
    design = Design()
    design.observe([{"site": "b"}, {"site": "a"}, {"site": None}, {}])
    assert design.sites == ("a", "b")
    assert design.linear == ()
    assert design.traits_if_known({"site": "a"}) is None, "of age and sex nothing is known"
    assert [design.traits({"site": name}).site for name in ("a", "b", "c")] == [0, 1, None]
    with pytest.raises(ValueError, match="must tell the fitted people apart"):
        Design().observe([{"site": "a"}, {"site": "a"}])


def test_the_map_stays_below_10_mb_with_as_many_sites_as_there_may_be() -> None:
    normative = TrendMap("affine")
    normative.know_sites([str(number) for number in range(MOST_SITES)])
    assert sum(buffer.nbytes for buffer in normative.buffers()) < 10e6


def test_the_order_of_scans_does_not_matter() -> None:
    scans: dict[int, list[SiteCells]] = {0: _scans(5, 0.8, 0), 1: _scans(4, -0.8, 1)}
    states: list[list[NDArray[np.float32]]] = []
    for order in ([0, 1], [1, 0]):
        sites = Sites(2)
        sites.learn({site: scans[site] for site in order})
        states.append([buffer.numpy() for buffer in sites.buffers()])
    for one, two in zip(*states, strict=True):
        np.testing.assert_array_equal(one, two)
