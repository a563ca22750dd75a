# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A site's own offset and spread: five scans help, one does no harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Lattice
from monai_dpmm_ad.normative.site import NUM_CHANNELS, SITE_SHAPE, SiteCells, SiteField, average_cells

Array = NDArray[np.float64]
PERSON, WHOLE = 0.5, 0.3  # spread between people of one site, of a place and of the whole scan


def _scans(number: int, offset: Array | float, seed: int, spread: float = 1.0) -> list[SiteCells]:
    """Healthy scans of a site in which every deviate is ``offset`` too high."""
    rng = np.random.default_rng(seed)
    scans = []
    for _ in range(number):
        size = (NUM_CHANNELS, *SITE_SHAPE)
        mean = offset + rng.normal(0, PERSON, size) + rng.normal(0, WHOLE, (NUM_CHANNELS, 1, 1, 1))
        seen = np.ones(SITE_SHAPE)
        seen[0] = 0
        scans.append(SiteCells(mean * seen, (mean**2 + spread**2 - PERSON**2 - WHOLE**2) * seen, seen))
    return scans


def _error(scans: list[SiteCells], truth: Array | float) -> float:
    site = SiteField()
    site.learn(scans)
    return float(np.sqrt(((site.offset.numpy() - truth)[:, 1:] ** 2).mean()))


def _shift() -> Array:
    """An offset that is large in half of the brain."""
    shift = np.full((NUM_CHANNELS, *SITE_SHAPE), 0.5)
    shift[:, :, :6] = 2.0
    return shift


def test_an_offset_is_learnt_the_better_the_more_scans() -> None:
    truth = _shift()
    errors = [np.mean([_error(_scans(n, truth, seed), truth) for seed in range(5)]) for n in (0, 1, 5, 20)]
    assert errors[0] > 1.2
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.75 * errors[1]
    assert errors[3] < errors[2]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_site_like_the_fitted_one_stays_nearly_as_it_was(number: int) -> None:
    errors = [_error(_scans(number, 0.0, seed), 0.0) for seed in range(10)]
    unshrunken = [float(np.mean([scan.mean for scan in _scans(number, 0.0, seed)], 0).std()) for seed in range(10)]
    assert np.mean(errors) < 0.5 * np.mean(unshrunken)
    assert np.mean(errors) < 0.2


def test_spreads_follow_with_care() -> None:
    for number, low, high in ((1, 1.0, 1.5), (20, 1.5, 2.1)):
        site = SiteField()
        site.learn(_scans(number, 0.0, 0, spread=2.0))
        assert low < float(site.spread[:, 1:].mean()) < high
    site.learn(_scans(5, 0.0, 0))
    assert float(site.spread[:, 1:].mean()) == pytest.approx(1, abs=0.05)
    assert (site.spread[:, 0] > 0.7).all(), "where nobody was seen nothing is divided by 0"
    site.learn([])
    assert (site.offset == 0).all()
    assert (site.spread == 1).all()


def test_adjusting_takes_offset_and_spread_out() -> None:
    site = SiteField()
    site.offset += torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
    site.spread *= 2
    mean, spread, fine, coarse = (torch.full((1, 2, 2, 2), value) for value in (5.0, 0.5, 4.0, 5.0))
    parts = site.shift.adjust([mean, spread, torch.cat([fine, coarse])], lambda field: field[:, :2, :2, :2])
    assert [float(part[0, 0, 0, 0]) for part in parts] == [5.5, 1.0, 1.0]
    assert float(parts[2][1, 0, 0, 0]) == 1.0
    assert len(site.shift.adjust([mean, spread], lambda field: field[:, :2, :2, :2])) == 2


def test_cells_are_means_over_the_foreground_at_its_places() -> None:
    lattice = Lattice(SITE_SHAPE, 16.0, (-72.0, -88.0, -72.0))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -72, -88, -72
    image = np.zeros((40, 40, 40), np.float32)
    image[4:36, 4:36, 4:36] = 1
    deviates = [torch.full(image.shape, value) for value in (1.5, -20.0)]
    cells = average_cells(deviates, image, affine, Frame("affine", np.eye(4)), lattice)
    assert cells.mean.shape == (2, *SITE_SHAPE)
    np.testing.assert_array_equal(cells.mean[0], 1.5 * cells.seen)
    np.testing.assert_array_equal(cells.square[1], 64 * cells.seen)  # what is far out is clipped
    assert cells.seen[1:5, 1:5, 1:5].all()
    assert not cells.seen[6:].any()
