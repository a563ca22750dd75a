# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Reading: every orientation comes out upright in radiological display, and damage is named."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.reporting import ScanResult
from monai_dpmm_ad.reporting.volumes import read_volumes

Maker = Callable[..., ScanResult]


@pytest.mark.parametrize(
    "codes", ["".join(c) for o in itertools.permutations(("LR", "AP", "SI")) for c in itertools.product(*o)][::5]
)
def test_every_orientation_reads_as_posterior_left_inferior(codes: str, make_volume: Maker, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ras = rng.random((6, 7, 8)).astype(np.float32) + 1
    turn = nib.orientations.axcodes2ornt(tuple(codes))
    stored = nib.orientations.apply_orientation(ras, turn)
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) @ nib.orientations.inv_ornt_aff(turn, ras.shape)
    path = tmp_path / "turned.nii"
    nib.save(nib.Nifti1Image(stored, affine), path)
    volumes = read_volumes(ScanResult(name="x", image=path, anomaly_map=path, score=0.0))
    np.testing.assert_array_equal(volumes.scan, ras.transpose(1, 0, 2)[::-1, ::-1, ::-1])
    np.testing.assert_allclose(volumes.spacing, [3, 2, 4])
    # The first voxel is the one most to the right, front and top: its centre in mm.
    np.testing.assert_allclose(volumes.affine[:3, 3], [2 * 5, 3 * 6, 4 * 7])


def test_a_picture_keeps_its_rows_and_columns(make_picture: Maker) -> None:
    result = make_picture()
    volumes = read_volumes(result)
    with Image.open(result.image) as image:
        np.testing.assert_array_equal(volumes.scan[:, :, 0], np.asarray(image))
    assert volumes.is_flat
    assert volumes.is_picture
    assert volumes.mask is not None
    # Sixteen bits, mid-grey at the threshold: mask and map agree but for rounding.
    assert np.mean((volumes.anomaly_map > 2.0) != volumes.mask) < 0.005


def test_a_volume_of_one_slice_is_flat(make_volume: Maker) -> None:
    volumes = read_volumes(make_volume(shape=(20, 24, 1)))
    assert volumes.is_flat
    assert not volumes.is_picture


def test_trailing_axes_of_one_are_dropped_and_bad_voxels_are_zero(make_volume: Maker, tmp_path: Path) -> None:
    array = np.ones((5, 6, 7, 1), np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    volumes = read_volumes(ScanResult(name="x", image=tmp_path / "a.nii", anomaly_map=tmp_path / "a.nii", score=0.0))
    assert volumes.scan.shape == (6, 5, 7)
    assert (volumes.scan == 0).sum() == 2


def test_files_that_do_not_belong_are_named(make_volume: Maker, tmp_path: Path) -> None:
    good, other = make_volume(), make_volume(shape=(5, 6, 7))
    with pytest.raises(ScanError, match=r"mask\.nii\.gz: has shape \(5, 6, 7\) but the scan has \(22, 26, 18\)"):
        read_volumes(dataclasses.replace(good, mask=other.mask))
    (tmp_path / "broken.nii.gz").write_bytes(b"not an image")
    with pytest.raises(ScanError, match=r"broken\.nii\.gz: cannot be read"):
        read_volumes(dataclasses.replace(good, image=tmp_path / "broken.nii.gz"))
    with pytest.raises(ScanError, match=r"absent\.png: cannot be read"):
        read_volumes(dataclasses.replace(good, image=tmp_path / "absent.png"))
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 2), np.float32), np.eye(4)), tmp_path / "four.nii")
    with pytest.raises(ScanError, match=r"has shape \(4, 4, 4, 2\)"):
        read_volumes(dataclasses.replace(good, image=tmp_path / "four.nii"))
