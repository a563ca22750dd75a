# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Atlases: placed by scanner coordinates, refused when they are none."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import LoadScan, count_regions
from monai_dpmm_ad.transforms.regions import LoadRegionsd, read_region_names


def left_and_right(points: np.ndarray) -> np.ndarray:
    """Label 1 left of x = 0, 2 right of it, 3 above z = 8."""
    return np.where(points[..., 2] > 8, 3, np.where(points[..., 0] < 0, 1, 2)).astype(np.int16)


def positions(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]


def test_an_atlas_on_the_scans_grid_is_taken_as_it_is(head, save) -> None:
    labels = np.random.default_rng(0).integers(0, 4, head.shape).astype(np.uint8)
    path = save(labels, "atlas.nii.gz")
    out = LoadRegionsd()({"image": LoadScan()(save(head)), "regions": str(path)})
    assert np.array_equal(out["regions"][0].numpy(), labels)
    assert count_regions(path) == 3
    assert count_regions(None) == 0


@settings(max_examples=20, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3), size=st.sampled_from([0.8, 2])
)
def test_an_atlas_of_another_grid_is_placed_by_scanner_coordinates(axes, signs, size, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("atlas")
    atlas_affine = nib.affines.from_matvec(np.eye(3), [-40.2, -40.2, -40.2])
    atlas = left_and_right(positions((80, 80, 80), atlas_affine))
    nib.save(nib.Nifti1Image(atlas, atlas_affine), folder / "atlas.nii.gz")
    matrix = np.zeros((3, 3))
    matrix[list(axes), range(3)] = np.array(signs) * size
    affine = nib.affines.from_matvec(matrix, -matrix @ [7, 8, 9])
    values = np.random.default_rng(0).random((14, 16, 18)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), folder / "scan.nii.gz")
    image = LoadScan()(folder / "scan.nii.gz")
    out = LoadRegionsd()({"image": image, "regions": str(folder / "atlas.nii.gz")})["regions"][0].numpy()
    where = positions(values.shape, affine)
    clear = (np.abs(where[..., 0]) > 1) & (np.abs(where[..., 2] - 8) > 1)  # not at a border, where rounding decides
    assert np.array_equal(out[clear], left_and_right(where)[clear])


def test_an_item_without_an_atlas_stays_without(head, save) -> None:
    image = LoadScan()(save(head))
    assert LoadRegionsd()({"image": image}) == {"image": image}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda labels: labels + 0.5, "whole numbers"),
        (lambda labels: -labels, "whole numbers"),
        (lambda labels: labels * 0, "every label is 0"),
    ],
)
def test_what_is_no_atlas_is_refused(head, save, change, reason) -> None:
    path = save(change(np.ones(head.shape, np.float32)), "atlas.nii.gz")
    with pytest.raises(ScanError, match=reason):
        count_regions(path)
    with pytest.raises(ScanError, match=rf"scan.nii.gz: regions .*{reason}"):
        LoadRegionsd()({"image": LoadScan()(save(head)), "regions": str(path)})


def test_an_atlas_whose_voxels_have_no_place_is_refused_before_a_fit(head, save) -> None:
    path = save(np.ones(head.shape, np.uint8), "atlas.nii")
    content = bytearray(path.read_bytes())
    for row in range(3):  # the second column of the sform
        content[284 + 16 * row : 288 + 16 * row] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(ScanError, match="has a singular affine: its voxel axes do not span the space"):
        count_regions(path)


def test_an_atlas_that_lies_elsewhere_is_refused(head, save) -> None:
    far = nib.affines.from_matvec(np.eye(3), [500, 0, 0])
    path = save(np.ones((4, 4, 4), np.uint8), "atlas.nii.gz", far)
    with pytest.raises(ScanError, match="does not overlap the image"):
        LoadRegionsd()({"image": LoadScan()(save(head)), "regions": str(path)})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("atlas.tsv", "index\tname\tcolour\n1\tLeft\tred\n12\tRight, upper\tblue\n"),
        ("atlas.csv", 'label,name\n1,Left\n12,"Right, upper"\n'),
    ],
)
def test_names_stand_in_the_table_beside_the_atlas(name: str, content: str, tmp_path) -> None:
    assert read_region_names(tmp_path / "atlas.nii.gz") == {}
    (tmp_path / name).write_text(content)
    assert read_region_names(tmp_path / "atlas.nii.gz") == {1: "Left", 12: "Right, upper"}
    (tmp_path / name).write_text("colour\nred\n")
    with pytest.raises(ScanError, match="needs the columns `index` and `name`"):
        read_region_names(tmp_path / "atlas.nii.gz")
