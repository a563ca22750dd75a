# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The lesion table: volumes, scanner coordinates, files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from monai_dpmm_ad.handlers.lesions import compute_lesions, write_lesions

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


def test_volumes_scores_and_scanner_coordinates(volume):
    first, second = compute_lesions(*volume, AFFINE)
    assert (first.index, first.num_voxels, first.unit, first.size) == (1, 2, "mm3", pytest.approx(2 * 9))
    assert (first.peak_score, first.mean_score) == (2.0, 1.0)
    assert first.centroid == pytest.approx(tuple((AFFINE @ [8.5, 8.5, 6.5, 1])[:3]))
    assert (first.first, first.last) == ((8, 8, 6), (9, 9, 7))
    assert (second.num_voxels, second.size) == (12, pytest.approx(12 * 9))
    assert second.centroid == pytest.approx(tuple((AFFINE @ [2.5, 4.0, 1.5, 1])[:3]))
    assert second.peak_score == pytest.approx(0.9)
    assert second.mean_score == pytest.approx((0.5 * 11 + 0.9) / 12)
    assert (second.first, second.last) == ((2, 3, 1), (3, 5, 2))


def test_world_measures_do_not_depend_on_the_array_s_orientation(volume):
    mask, scores = volume
    flip = np.array([[-1.0, 0, 0, 11], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # i' = 11 − i, j' = k, k' = j
    turned = [np.transpose(a[::-1], (0, 2, 1)) for a in (mask, scores)]
    for one, two in zip(
        compute_lesions(mask, scores, AFFINE), compute_lesions(*turned, AFFINE @ np.linalg.inv(flip)), strict=True
    ):
        assert one.centroid == pytest.approx(two.centroid)
        assert (one.size, one.peak_score, one.num_voxels) == pytest.approx((two.size, two.peak_score, two.num_voxels))


def test_small_components_are_left_out_and_numbers_stay_consecutive(volume):
    lesions = compute_lesions(*volume, AFFINE, min_volume_mm3=20)
    assert [(lesion.index, lesion.num_voxels) for lesion in lesions] == [(1, 12)]


def test_images_are_measured_in_pixels():
    mask = np.zeros((6, 7), np.uint8)
    mask[1:3, 4:7] = 255
    (lesion,) = compute_lesions(mask, mask / 255.0)
    assert (lesion.size, lesion.unit, lesion.num_voxels, lesion.centroid) == (6.0, "pixels", 6, (1.5, 5.0))


def test_empty_mask_gives_no_lesions():
    assert compute_lesions(np.zeros((4, 4)), np.zeros((4, 4))) == []


def test_files_hold_all_lesions_and_no_formula(volume, tmp_path):
    lesions = {"=cmd|' /C calc'!A0": compute_lesions(*volume, AFFINE), 'b,"c': compute_lesions(*volume, AFFINE)[:1]}
    flat = np.zeros((5, 5), bool)
    flat[0, 0] = True
    lesions |= {"flat": compute_lesions(flat, flat * 1.0), "none": []}
    write_lesions(tmp_path / "lesions.csv", tmp_path / "lesions.json", lesions)
    with open(tmp_path / "lesions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["'=cmd|' /C calc'!A0"] * 2 + ['b,"c', "flat"]
    assert [float(rows[0][f"centroid_{i}"]) for i in range(3)] == pytest.approx(list(lesions['b,"c'][0].centroid))
    assert (rows[3]["centroid_2"], rows[3]["last_2"], rows[3]["unit"]) == ("", "", "pixels")
    content = json.loads((tmp_path / "lesions.json").read_text())
    assert list(content) == list(lesions)
    assert content["none"] == []
    assert content['b,"c'][0]["last"] == [9, 9, 7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lesions.csv", "lesions.json"]


def test_arguments_are_checked(volume):
    mask, scores = volume
    with pytest.raises(ValueError, match="one 2D or 3D shape"):
        compute_lesions(mask[None], scores[None], AFFINE)
    with pytest.raises(ValueError, match="one 2D or 3D shape"):
        compute_lesions(mask, scores[:-1], AFFINE)
    for affine in (None, np.zeros((4, 4)), np.eye(3)):
        with pytest.raises(ValueError, match="invertible"):
            compute_lesions(mask, scores, affine)
