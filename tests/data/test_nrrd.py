# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.nrrd_files import write_nrrd

pytest.importorskip("nrrd", reason="pynrrd is not installed; the `nrrd` extra brings it")

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import LoadScan

VALUES = np.random.default_rng(0).normal(100, 20, (7, 6, 5)).astype(np.float32)
AFFINE = nib.affines.from_matvec(np.array([[0, 0, 2.0], [-1.5, 0.1, 0], [0, 3.0, 0]]), [10, -20, 30])


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2"])
def test_an_nrrd_is_the_nifti_of_the_same_voxels(tmp_path: Path, encoding: str, space: str, dtype: str) -> None:
    values = VALUES.astype(dtype)
    write_nrrd(tmp_path / "scan.NRRD", values, AFFINE, encoding, space)
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "scan.nii.gz")
    ours, theirs = LoadScan()(tmp_path / "scan.NRRD"), LoadScan()(tmp_path / "scan.nii.gz")
    assert np.array_equal(ours.numpy(), theirs.numpy())
    assert np.allclose(ours.affine, theirs.affine)
    assert ours.meta["name"] == "scan"


def test_voxels_in_another_file_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(VALUES.tobytes())
    for field in ("data file", "datafile"):
        write_nrrd(tmp_path / "scan.nrrd", VALUES, AFFINE, "raw", extra=f"{field}: {tmp_path / 'secret'}\n", data=b"")
        with pytest.raises(ScanError, match="voxels in another file"):
            LoadScan()(tmp_path / "scan.nrrd")


def test_no_more_is_unpacked_than_the_header_claims(tmp_path: Path) -> None:
    bomb = gzip.compress(VALUES.tobytes(order="F") + bytes(200 * 2**20))
    write_nrrd(tmp_path / "scan.nrrd", VALUES, AFFINE, "gzip", data=bomb)
    assert np.array_equal(LoadScan()(tmp_path / "scan.nrrd")[0].numpy(), VALUES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": "4000 4000 4000"}, "claims shape"),
        ({"sizes": "7 6 50"}, "truncated or damaged"),
        ({"type": "block"}, "type 'block'"),
        ({"encoding": "hex"}, "encoded as 'hex'"),
        ({"space": "scanner-xyz"}, "'scanner-xyz' that is not understood"),
        ({"extra": "byte skip: 4\n"}, "do not follow its header"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, change: dict[str, str], message: str) -> None:
    write_nrrd(tmp_path / "scan.nrrd", VALUES, AFFINE, **{"encoding": "raw", **change})
    with pytest.raises(ScanError, match=message):
        LoadScan()(tmp_path / "scan.nrrd")
