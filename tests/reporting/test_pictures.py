# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Colours, chosen slices and the packed volumes of the viewer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from monai_dpmm_ad.reporting import ScanResult
from monai_dpmm_ad.reporting.colours import (
    ColourScale,
    MapSummary,
    SliceArrays,
    colour_table,
    make_colour_scale,
    render_panels,
    summarise_map,
    window_scan,
)
from monai_dpmm_ad.reporting.slices import choose_slices, cut_slices
from monai_dpmm_ad.reporting.sprites import MAX_VOLUME_SIDE, pack_viewer
from monai_dpmm_ad.reporting.volumes import ScanVolumes, read_volumes

Maker = Callable[..., ScanResult]
FINITE = st.floats(0, 1e6)


@example([MapSummary(0.0, 5e-324, None)], False)
@given(
    st.lists(st.builds(MapSummary, FINITE, FINITE, st.just(3.0)), min_size=1, max_size=5) | st.just([]),
    st.booleans(),
)
def test_the_scale_increases_and_has_the_threshold_at_its_middle(summaries: list[MapSummary], known: bool) -> None:
    if not known:
        summaries = [MapSummary(s.median, s.high, None) for s in summaries]
    scale = make_colour_scale(summaries)
    assert scale.low < scale.middle < scale.high
    assert scale.normalise(np.array([scale.middle])) == 0.5
    if known and summaries:
        assert scale.threshold == scale.middle == 3.0


def test_scans_with_different_thresholds_have_no_common_one() -> None:
    assert make_colour_scale([MapSummary(1, 5, 2.0), MapSummary(1, 5, 3.0)]).threshold is None


def test_lightness_of_the_colour_table_increases() -> None:
    lightness = colour_table().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -1.5).all()
    assert lightness[-1] - lightness[0] > 150


def test_an_empty_map_and_a_constant_scan_are_no_trouble() -> None:
    assert summarise_map(np.zeros((2, 2, 2), np.float32), None) == MapSummary(0.0, 0.0, None)
    assert window_scan(np.zeros((2, 2, 2), np.float32)).max() == 0
    assert window_scan(np.full((2, 2, 2), -5.0, np.float32)).dtype == np.uint8


def test_panels_show_scan_map_mask_and_truth() -> None:
    mask = np.zeros((20, 30), bool)
    mask[8:12, 10:20] = True
    arrays = SliceArrays(np.full((20, 30), 100, np.uint8), mask * np.float32(5), mask, None, (2.0, 1.0))
    panels = render_panels(arrays, ColourScale(0.0, 1.0, 2.0, 1.0), height=80)
    assert {panel.shape for panel in panels} == {(80, 60, 3)}, "2 mm rows and 1 mm columns"
    assert (panels[0] == 100).all()
    centre, corner = (40, 30), (2, 2)
    assert np.ptp(panels[1][centre].astype(int)) > 60
    assert (panels[1][corner] == 100).all(), "what does not score is not coloured"
    assert np.ptp(panels[2][centre].astype(int)) > 30
    assert (panels[3] == 0).all(), "no truth is known"


def test_slices_show_what_is_flagged_and_what_is_true(make_volume: Maker) -> None:
    volumes = read_volumes(make_volume())
    assert volumes.mask is not None
    assert volumes.label is not None
    most = volumes.mask.sum(axis=(0, 1))
    assert most[choose_slices(volumes, 1)[0]] == most.max()
    elsewhere = np.zeros_like(volumes.mask)
    elsewhere[10, 10, 2] = True
    moved = ScanVolumes(volumes.scan, volumes.anomaly_map, volumes.mask, elsewhere, volumes.affine, False)
    chosen = choose_slices(moved, 5)
    assert 2 in chosen
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 5
    assert len(choose_slices(volumes, 100)) == volumes.scan.shape[2]
    assert cut_slices(volumes, chosen)[0].scan.shape <= volumes.scan.shape[:2]


def test_the_slice_is_that_of_the_first_region(make_volume: Maker, make_picture: Maker) -> None:
    result = make_volume()
    volumes = read_volumes(result)
    places = [volumes.place(region.peak_voxel) for region in result.regions]
    for region, place in zip(result.regions, places, strict=True):
        assert volumes.anomaly_map[place] == pytest.approx(region.peak_score, abs=1e-6)
    assert len({place[2] for place in places}) == 2
    for first in (places, places[::-1]):
        assert choose_slices(volumes, 1, first) == [first[0][2]]
        packed = pack_viewer(volumes, window_scan(volumes.scan), highest=None, places=first)
        assert packed["peak"] == packed["places"][0]
        k, r, c = packed["peak"]
        shown = np.array(packed["affine"]) @ [r, c, k, 1]
        assert np.abs(shown - volumes.affine @ [*first[0], 1]).max() <= 3
    flat = make_picture()
    peaks = [read_volumes(flat).place(region.peak_voxel) for region in flat.regions]
    values = read_volumes(flat).anomaly_map
    assert flat.threshold is not None
    highest = 2 * flat.threshold  # of a picture's 16 bits
    expected = [min(region.peak_score, highest) for region in flat.regions]
    assert [float(values[peak]) for peak in peaks] == pytest.approx(expected, abs=1e-3)


def _unpack(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))))


def _untile(tiled: np.ndarray, packed: dict[str, Any]) -> np.ndarray:
    """Do what report.js does: return ``(I, P, L)``."""
    depth, rows, columns = packed["size"]
    slices = []
    for k in range(depth):
        top, left = k // packed["tiles"] * rows, k % packed["tiles"] * columns
        slices.append(tiled[top : top + rows, left : left + columns])
    return np.stack(slices)


def test_the_viewer_gets_back_what_was_packed(make_volume: Maker) -> None:
    volumes = read_volumes(make_volume())
    assert volumes.mask is not None
    packed = pack_viewer(volumes, window_scan(volumes.scan), highest=None)
    levels = _untile(_unpack(packed["map"])[..., 0], packed).astype(float)
    values = packed["low"] + (levels - 1) / 254 * (packed["high"] - packed["low"])
    peak = tuple(packed["peak"])
    assert values[peak] == pytest.approx(volumes.anomaly_map.max(), rel=0.1)
    masks = _untile(_unpack(packed["masks"]), packed)
    voxel = np.abs(np.linalg.det(np.array(packed["affine"])[:3, :3]))
    true_volume = volumes.mask.sum() * np.prod(volumes.spacing)
    assert (masks[..., 0] > 0).sum() * voxel == pytest.approx(true_volume, rel=0.3)
    # The peak's position in mm is that of the map's maximum.
    k, r, c = peak
    shown = np.array(packed["affine"]) @ [r, c, k, 1]
    source = volumes.affine @ [*np.unravel_index(volumes.anomaly_map.argmax(), volumes.scan.shape), 1]
    assert np.abs(shown - source).max() <= 3


def test_large_scans_shrink_but_no_finding_is_lost() -> None:
    shape = (200, 150, 90)
    scan = np.full(shape, 10, np.float32)
    mask = np.zeros(shape, bool)
    mask[123, 45, 67] = True
    anomaly_map = np.ones(shape, np.float32) + 5 * mask
    volumes = ScanVolumes(scan, anomaly_map, mask, None, np.diag([1.0, 1.0, 2.0, 1.0]), False)
    packed = pack_viewer(volumes, window_scan(scan), highest=None)
    assert max(packed["size"]) == MAX_VOLUME_SIDE
    assert packed["hasMask"]
    assert not packed["hasTruth"]
    where = np.argwhere(_untile(_unpack(packed["masks"]), packed)[..., 0] > 0)
    assert len(where) >= 1
    k, r, c = where[0]
    np.testing.assert_allclose((np.array(packed["affine"]) @ [r, c, k, 1])[:3], [123, 45, 134], atol=2)


def test_a_noisy_head_of_one_millimetre_takes_less_than_a_megabyte() -> None:
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in (180, 150, 150)]
    inside = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 1
    scan = np.where(inside, 100 + 15 * rng.standard_normal(inside.shape, dtype=np.float32), 0)
    volumes = ScanVolumes(scan, inside * (1 + scan / 100), scan > 140, scan > 140, np.eye(4), False)
    packed = pack_viewer(volumes, window_scan(scan), highest=None)
    assert sum(len(packed[key]) for key in ("scan", "map", "masks")) < 1_000_000


def test_a_picture_is_packed_as_one_slice(make_picture: Maker) -> None:
    volumes = read_volumes(make_picture())
    packed = pack_viewer(volumes, window_scan(volumes.scan), highest=None)
    assert packed["size"] == [1, 40, 30]
    assert not packed["letters"]
