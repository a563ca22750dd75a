# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.normative.atlas import Atlas
from monai_dpmm_ad.normative.lattice import sample_places

SHAPE = (12, 14, 10)
ONES = np.ones(SHAPE, np.float32)


def _anatomy() -> NDArray[np.float32]:
    rough = ndimage.gaussian_filter(np.random.default_rng(99).normal(size=SHAPE), 2)
    return (3 * rough / rough.std()).astype(np.float32)


def _scans(number: int, place: float = 1.0, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    noise = (ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) * 4 for _ in range(number))
    return {f"scan{seed}-{i}": (place * _anatomy() + part)[None].astype(np.float32) for i, part in enumerate(noise)}


def _fit(scans: dict[str, NDArray[np.float32]], atlas: Atlas | None = None) -> Atlas:
    atlas = Atlas(SHAPE) if atlas is None else atlas
    for name, values in scans.items():
        atlas.update(name, values, ONES)
    atlas.finish()
    return atlas


def _residual(atlas: Atlas, scans: dict[str, NDArray[np.float32]]) -> float:
    """Mean variance of new scans after standardising."""
    mean, _ = atlas.moments()
    return float(np.mean([np.var(values - mean.numpy()) for values in scans.values()]))


def test_order_of_scans_does_not_matter() -> None:
    scans = _scans(7)
    one, two = _fit(scans), _fit(dict(reversed(scans.items())))
    for name, buffer in one.state_dict().items():
        assert torch.equal(buffer, two.state_dict()[name]), name


def test_atlas_finds_mean_and_spread_of_each_place() -> None:
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(SHAPE[0]) < 6, 1.0, 3.0)[:, None, None]
    scans = {f"s{i}": (0.3 * _anatomy() + spread * rng.normal(size=SHAPE))[None].astype(np.float32) for i in range(200)}
    mean, deviation = _fit(scans, Atlas(SHAPE, smoothing=0.5)).moments()
    assert np.corrcoef(mean.numpy().ravel(), _anatomy().ravel())[0, 1] > 0.9
    inner = deviation[0, 2:4].mean(), deviation[0, 8:10].mean()
    assert inner[1] / inner[0] == pytest.approx(3, rel=0.15)


def test_scale_and_offset_of_a_channel_do_not_matter() -> None:
    """Log densities of several hundred square to what half precision cannot hold."""
    scans = _scans(12)
    moved = {name: 3000 + 20 * values for name, values in scans.items()}
    (mean, spread), (moved_mean, moved_spread) = _fit(scans).moments(), _fit(moved).moments()
    torch.testing.assert_close((moved_mean - 3000) / 20, mean, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(moved_spread / 20, spread, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("factor", [1e-7, 1e-4, 1e5])
def test_the_unit_of_the_values_does_not_matter(factor: float) -> None:
    """A detector's scores have none: they may be squares of differences, or log densities in many dimensions."""
    scans = {name: 20 + values for name, values in _scans(12).items()}
    other = Atlas(SHAPE)
    other.set_unit(np.float32(factor) * next(iter(scans.values())).ravel())
    moved = _fit({name: np.float32(factor) * values for name, values in scans.items()}, other)
    again = Atlas(SHAPE)
    again.load_state_dict(moved.state_dict())
    for found, expected in zip(again.moments(), _fit(scans).moments(), strict=True):
        torch.testing.assert_close(found / factor, expected, rtol=2e-3, atol=2e-3)


def test_an_atlas_of_before_units_has_none() -> None:
    fitted, again = _fit(_scans(3)), Atlas(SHAPE)
    again.unit.fill_(2.0)
    again.load_state_dict({name: buffer for name, buffer in fitted.state_dict().items() if name != "unit"})
    assert torch.equal(again.moments()[0], fitted.moments()[0])


def test_update_in_two_parts_is_one_fit() -> None:
    scans = _scans(10)
    whole = _fit(scans)
    part = _fit(dict(list(scans.items())[:6]))
    updated = _fit(dict(list(scans.items())[6:]), part)
    assert int(updated.num_scans) == 10
    for name in ("mean", "spread", "overall", "weight"):
        torch.testing.assert_close(
            updated.state_dict()[name], whole.state_dict()[name], rtol=5e-3, atol=5e-3, check_dtype=False
        )


def test_where_place_explains_nothing_the_atlas_does_nothing() -> None:
    atlas = _fit(_scans(40, place=0.0))
    mean, spread = atlas.moments()
    new = _scans(20, place=0.0, seed=5)
    plain = float(np.mean([np.var(values) for values in new.values()]))
    assert _residual(atlas, new) < 1.01 * plain
    assert float(mean.std()) < 0.1 * float(spread.mean())


def test_where_place_explains_much_the_atlas_takes_it_away() -> None:
    atlas = _fit(_scans(40))
    new = _scans(20, seed=5)
    plain = float(np.mean([np.var(values) for values in new.values()]))
    assert float(atlas.trust[0]) > 0.9
    assert _residual(atlas, new) < 0.35 * plain


@pytest.mark.parametrize("number", [1, 2, 10])
@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_few_scans_do_no_harm(number: int, place: float) -> None:
    new = _scans(20, place=place, seed=5)
    plain = float(np.mean([np.var(values) for values in new.values()]))
    assert _residual(_fit(_scans(number, place=place)), new) < (1.1 if number > 2 else 1.3) * plain


def test_state_survives_and_is_small() -> None:
    atlas = _fit(_scans(5))
    again = Atlas(SHAPE)
    again.load_state_dict(atlas.state_dict())
    for one, two in zip(atlas.moments(), again.moments(), strict=True):
        assert torch.equal(one, two)
    full = Atlas((80, 96, 80), num_channels=2)
    assert sum(buffer.nbytes for buffer in full.buffers()) < 10e6


def test_atlas_says_what_is_missing() -> None:
    atlas = Atlas(SHAPE)
    with pytest.raises(NotFittedError, match="The atlas has seen no scans"):
        atlas.moments()
    with pytest.raises(NotFittedError, match="`finish` needs at least one"):
        atlas.finish()
    with pytest.raises(ValueError, match="`values` and `weight` must have shapes"):
        atlas.update("a", np.zeros((2, *SHAPE), np.float32), ONES)


def test_places_are_interpolated_linearly() -> None:
    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (5, 4, 3)], indexing="ij"), -1)
    volume = (index * torch.tensor([1.0, 10.0, 100.0])).sum(-1)[None]
    points = torch.tensor([[1.25, 2.5, 1.0], [0.0, 0.0, 0.0], [-3.0, 9.0, 1.5]])
    expected = torch.tensor([[126.25, 0.0, 180.0]])
    torch.testing.assert_close(sample_places(volume, points), expected)
