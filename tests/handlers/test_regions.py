# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The table of flagged regions: volumes, p-values, coordinates, names, files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from monai_dpmm_ad.handlers.regions import compute_regions, name_regions, write_regions
from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.regions import RegionCalibration

AFFINE = np.array([[0.0, -2.0, 0.0, 10.0], [-1.5, 0.0, 0.0, 20.0], [0.0, 0.0, 3.0, -30.0], [0, 0, 0, 1]])


@pytest.fixture
def volume() -> tuple[np.ndarray, np.ndarray]:
    mask, scores = np.zeros((12, 10, 8), bool), np.zeros((12, 10, 8), np.float32)
    mask[2:4, 3:6, 1:3] = True
    scores[2:4, 3:6, 1:3] = 0.5
    scores[3, 4, 2] = 0.9
    mask[9, 9, 7] = mask[8, 8, 6] = True  # touch at a corner
    scores[9, 9, 7] = 2.0
    return mask, scores


@pytest.fixture
def calibration() -> RegionCalibration:
    """Three healthy scans, whose highest regions peak at 10, 20 and 30."""
    fitted = RegionCalibration()
    for size in (10.0, 20.0, 30.0):
        fitted.update(f"scan {size}", np.array([size, size / 2]))
    fitted.finish()
    return fitted


def test_volumes_scores_and_scanner_coordinates(volume):
    (first, second), labels, box = compute_regions(*volume, AFFINE)
    assert (first.index, first.num_voxels, first.unit, first.size) == (1, 2, "mm3", pytest.approx(2 * 9))
    assert (first.peak_score, first.mean_score, first.peak_voxel) == (2.0, 1.0, (9, 9, 7))
    assert first.centroid_voxel == (8.5, 8.5, 6.5)
    assert first.centroid == pytest.approx(tuple((AFFINE @ [8.5, 8.5, 6.5, 1])[:3]))
    assert (first.first, first.last) == ((8, 8, 6), (9, 9, 7))
    assert (second.num_voxels, second.size) == (12, pytest.approx(12 * 9))
    assert second.centroid == pytest.approx(tuple((AFFINE @ [2.5, 4.0, 1.5, 1])[:3]))
    assert (second.peak_score, second.peak_voxel) == (pytest.approx(0.9), (3, 4, 2))
    assert second.mean_score == pytest.approx((0.5 * 11 + 0.9) / 12)
    assert (second.first, second.last) == ((2, 3, 1), (3, 5, 2))
    assert (first.p_value, first.anatomy, first.centroid_reference) == (None, None, None)
    assert np.array_equal(labels > 0, volume[0][box])
    assert (labels[-1, -1, -1], labels[0, 0, 0]) == (1, 2)


def test_world_measures_do_not_depend_on_the_array_s_orientation(volume):
    mask, scores = volume
    flip = np.array([[-1.0, 0, 0, 11], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # i' = 11 − i, j' = k, k' = j
    turned = [np.transpose(a[::-1], (0, 2, 1)) for a in (mask, scores)]
    here, there = (
        compute_regions(mask, scores, AFFINE).listed,
        compute_regions(*turned, AFFINE @ np.linalg.inv(flip)).listed,
    )
    for one, two in zip(here, there, strict=True):
        assert one.centroid == pytest.approx(two.centroid)
        assert (one.size, one.peak_score, one.num_voxels) == pytest.approx((two.size, two.peak_score, two.num_voxels))
        assert tuple((flip @ [*one.peak_voxel, 1])[:3]) == two.peak_voxel


def test_small_components_are_left_out_and_numbers_stay_consecutive(volume):
    regions, labels, _ = compute_regions(*volume, AFFINE, min_size=20)
    assert [(region.index, region.num_voxels) for region in regions] == [(1, 12)]
    assert (labels == 1).sum() == (labels > 0).sum() == 12


def test_the_peak_s_p_value(volume, calibration):
    mask, scores = volume
    scores[9, 9, 7] = 25.0  # two of three healthy scans have less
    (first, second), *_ = compute_regions(mask, scores, AFFINE, calibration=calibration)
    assert (first.peak_score, first.p_value) == (25.0, 2 / 4)
    assert (second.p_value, second.index) == (1.0, 2)
    low = scores * 2.9 / scores.max()  # below what was measured of healthy scans
    assert {region.p_value for region in compute_regions(mask, low, AFFINE, calibration=calibration).listed} == {1.0}
    empty = RegionCalibration()
    assert compute_regions(mask, scores, AFFINE, calibration=empty).listed[0].p_value is None, "no scan was seen"


def test_a_frame_gives_the_place_in_the_reference(volume):
    matrix = np.diag([2.0, 1.0, 1.0, 1.0])
    matrix[:3, 3] = [5, 6, 7]
    for kind, known in (("affine", True), ("none", False)):
        (first, _), *_ = compute_regions(*volume, AFFINE, frame=Frame(kind, matrix))
        place = tuple((matrix @ [*first.centroid, 1])[:3])
        assert first.centroid_reference == (pytest.approx(place) if known else None)
    flat = np.eye(5)[:4]
    (region,), *_ = compute_regions(flat, flat, np.diag([-1.0, -1.0, 1.0, 1.0]), frame=Frame("box", matrix))
    assert region.centroid_reference == pytest.approx((-2 * 1.5 + 5, -1.5 + 6, 7)), "a picture lies at z = 0"


def test_a_region_is_named_after_where_most_of_it_lies(volume):
    regions = compute_regions(*volume, AFFINE)
    atlas = np.zeros(volume[0].shape, np.int32)
    atlas[2:4, 3, 1:3], atlas[2:4, 4:6, 1:3] = 7, 3
    named = name_regions(regions, atlas, {3: "Thalamus"})
    assert [region.anatomy for region in named] == [None, "Thalamus"]
    assert [region.anatomy for region in name_regions(regions, atlas, {})] == [None, "3"]
    atlas[8, 8, 6] = 12  # half of the first region, the rest of it is nowhere
    assert name_regions(regions, atlas, {})[0].anatomy == "12"


def test_images_are_measured_in_pixels():
    mask = np.zeros((6, 7), np.uint8)
    mask[1:3, 4:7] = 255
    (region,), *_ = compute_regions(mask, mask / 255.0)
    assert (region.size, region.unit, region.num_voxels, region.centroid) == (6.0, "pixels", 6, (1.5, 5.0))


def test_empty_mask_gives_no_regions():
    regions, labels, box = compute_regions(np.zeros((4, 4)), np.zeros((4, 4)))
    assert regions == []
    assert labels.size == np.zeros((4, 4))[box].size == 0


def test_files_hold_all_regions_and_no_formula(volume, calibration, tmp_path):
    both = compute_regions(*volume, AFFINE, calibration=calibration).listed
    regions = {"=cmd|' /C calc'!A0": both, 'b,"c': both[:1]}
    flat = np.zeros((5, 5), bool)
    flat[0, 0] = True
    regions |= {"flat": compute_regions(flat, flat * 1.0).listed, "none": []}
    write_regions(tmp_path / "regions.csv", tmp_path / "regions.json", regions)
    with open(tmp_path / "regions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["'=cmd|' /C calc'!A0"] * 2 + ['b,"c', "flat"]
    assert [row["region"] for row in rows] == ["1", "2", "1", "1"]
    assert [float(rows[0][f"centroid_{i}"]) for i in range(3)] == pytest.approx(list(both[0].centroid))
    assert float(rows[0]["p_value"]) == both[0].p_value
    assert (rows[3]["centroid_2"], rows[3]["last_2"], rows[3]["unit"], rows[3]["p_value"]) == ("", "", "pixels", "")
    content = json.loads((tmp_path / "regions.json").read_text())
    assert list(content) == list(regions)
    assert content["none"] == []
    assert content['b,"c'][0]["last"] == list(both[0].last)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["regions.csv", "regions.json"]


def test_arguments_are_checked(volume):
    mask, scores = volume
    with pytest.raises(ValueError, match="one 2D or 3D shape"):
        compute_regions(mask[None], scores[None], AFFINE)
    with pytest.raises(ValueError, match="one 2D or 3D shape"):
        compute_regions(mask, scores[:-1], AFFINE)
    for affine in (None, np.zeros((4, 4)), np.eye(3)):
        with pytest.raises(ValueError, match="invertible"):
            compute_regions(mask, scores, affine)
