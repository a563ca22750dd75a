# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Every format that is read gives the same values at the same place; maps go back to it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as itk
from helpers.scans import make_head
from PIL import Image

from monai_dpmm_ad.data import find_scans
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import LoadScan, SaveScand

HEAD = make_head().astype(np.float32)
AFFINE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([-2.0, 2.0, 4.0]), [10, -20, 30])


def write(path: Path) -> Path:
    if path.suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(HEAD, AFFINE), path)
    elif path.suffix == ".hdr":
        nib.save(nib.Nifti1Pair(HEAD, AFFINE), path)
    elif path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(HEAD, AFFINE), path)
    else:
        image = itk.GetImageFromArray(np.ascontiguousarray(HEAD.T))
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
        sizes = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(sizes.tolist())
        image.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        itk.WriteImage(image, str(path))
    return path


FORMATS = [".nii", ".nii.gz", ".hdr", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_volumes_of_every_format_are_alike(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"scan{suffix}")
    found = find_scans(tmp_path)
    assert [item["image"] for item in found.items] == [str(path)]
    assert not found.left_out
    image = LoadScan(spatial_dims=3)(path)
    np.testing.assert_array_equal(image[0].numpy(), HEAD)
    np.testing.assert_allclose(np.asarray(image.affine), AFFINE, atol=1e-4)


OWN = {".hdr": ".hdr", ".mgz": ".mgz", ".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}


@pytest.mark.parametrize("suffix", OWN)
def test_maps_go_back_to_the_scans_own_format_on_request(suffix: str, tmp_path: Path) -> None:
    image = LoadScan()(write(tmp_path / f"scan{suffix}"))
    SaveScand("image", tmp_path / "out", "anomaly", own_format=True)({"image": image})
    SaveScand("image", tmp_path / "plain", "anomaly")({"image": image})
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["scan_anomaly.nii.gz"]
    for name in ("scan_anomaly.nii.gz", f"scan_anomaly{OWN[suffix]}"):
        saved = LoadScan()(tmp_path / "out" / name)
        np.testing.assert_array_equal(saved[0].numpy(), HEAD)
        np.testing.assert_allclose(np.asarray(saved.affine), AFFINE, atol=1e-4)
    assert not list((tmp_path / "out").glob(".partial*"))


def test_a_missing_pynrrd_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nrrd")
    monkeypatch.setitem(__import__("sys").modules, "nrrd", None)
    with pytest.raises(ScanError, match=r"nrrd is needed and not installed. Run: pip install 'monai-dpmm-ad\[nrrd\]'"):
        LoadScan()(path)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_a_header_leads_to_no_file_but_one_beside_it(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"scan{suffix}")
    (voxels,) = (file for file in tmp_path.iterdir() if file != path)
    (tmp_path / "away").mkdir()
    for name in (
        str(tmp_path / "away" / voxels.name),
        f"away/{voxels.name}",
        f"../{tmp_path.name}/{voxels.name}",
        "LIST",
    ):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        moved = tmp_path / "elsewhere" / path.name
        moved.write_bytes(path.read_bytes().replace(voxels.name.encode(), name.encode()))
        with pytest.raises(ScanError, match="keeps its voxels in files elsewhere"):
            LoadScan()(moved)


@pytest.mark.parametrize("suffix", [".hdr", ".nhdr", ".mhd"])
def test_voxels_that_are_not_beside_their_header_are_named(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"scan{suffix}")
    (voxels,) = (file for file in tmp_path.iterdir() if file != path)
    voxels.write_bytes(voxels.read_bytes()[:100])
    with pytest.raises(ScanError, match="damaged"):
        LoadScan()(path)
    voxels.unlink()
    with pytest.raises(ScanError, match=f"is a header whose voxels, {voxels.name}, are not beside it"):
        LoadScan()(path)
    if suffix == ".mhd":
        path.write_bytes(path.read_bytes().replace(voxels.name.encode(), b"LOCAL"))
        with pytest.raises(ScanError, match="damaged"):
            LoadScan()(path)


def test_several_numbers_a_voxel_are_refused(tmp_path: Path) -> None:
    itk.WriteImage(itk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True), str(tmp_path / "v.mha"))
    with pytest.raises(ScanError, match="has 3 numbers per voxel; a scan needs one"):
        LoadScan()(tmp_path / "v.mha")


def test_analyze_says_that_it_does_not_know_left_from_right(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(HEAD, np.diag([2.0, 2, 4, 1])), tmp_path / "a.img")
    image = LoadScan()(tmp_path / "a.hdr")
    np.testing.assert_array_equal(image[0].numpy(), HEAD)
    assert "which side is left" in image.meta["notes"]
    with pytest.raises(ScanError, match="name its header"):
        LoadScan()(tmp_path / "a.img")


# -------------------------------------------------------------------------------------------------------- odd headers


def odd(path: Path, kind: Any = nib.Nifti1Image, **fields: Any) -> Path:
    raw = bytearray(kind(HEAD, AFFINE).to_bytes())
    header = np.frombuffer(raw, kind.header_class.template_dtype, count=1)
    for name, value in fields.items():
        header[name][0] = value
    path.write_bytes(gzip.compress(bytes(raw)) if path.name.endswith(".gz") else bytes(raw))
    return path


def test_what_is_compressed_is_seen_by_its_content(tmp_path: Path) -> None:
    raw = nib.Nifti1Image(HEAD, AFFINE).to_bytes()
    contents = {"a.nii.gz": raw, "b.nii": gzip.compress(raw), "c.nii.gz": gzip.compress(gzip.compress(raw))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(LoadScan()(tmp_path / name)[0].numpy(), HEAD)
        image = LoadScan()(tmp_path / name)
        SaveScand("image", tmp_path / "out", "map")({"image": image})
        saved = nib.load(tmp_path / "out" / f"{name[0]}_map.nii.gz")
        np.testing.assert_array_equal(np.asarray(saved.dataobj), HEAD)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"sform_code": 0, "qform_code": 0}, "the orientation is undefined"),
        ({"sform_code": 0, "qform_code": 0, "pixdim": [1, 0, 2, 4, 0, 0, 0, 0]}, "the voxel sizes are undefined"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 0.9, "quatern_c": 0.9}, "the orientation is undefined"),
        ({"xyzt_units": 1}, "voxel sizes in metres"),
        ({"xyzt_units": 3}, "voxel sizes in micrometres"),
    ],
)
def test_undefined_geometry_is_said_aloud(fields: dict[str, Any], note: str, tmp_path: Path) -> None:
    image = LoadScan()(odd(tmp_path / "scan.nii.gz", **fields))
    np.testing.assert_array_equal(image[0].numpy(), HEAD)
    assert any(note in sentence for sentence in json.loads(image.meta["notes"]))


@pytest.mark.parametrize("fields", [{"scl_slope": 1, "scl_inter": np.nan}, {"dim": [4, 24, 28, 10, 0, 1, 1, 1]}])
def test_headers_that_nibabel_refuses_are_mended(fields: dict[str, Any], tmp_path: Path) -> None:
    image = LoadScan()(odd(tmp_path / "scan.nii.gz", **fields))
    np.testing.assert_array_equal(image[0].numpy(), HEAD)
    SaveScand("image", tmp_path, "map")({"image": image})
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "scan_map.nii.gz").dataobj).reshape(HEAD.shape), HEAD)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("offset", [0, 16])
def test_voxels_do_not_begin_inside_of_the_header(kind: Any, name: str, offset: int, tmp_path: Path) -> None:
    path = odd(tmp_path / name, kind, vox_offset=offset)
    image = LoadScan()(path)
    np.testing.assert_array_equal(image[0].numpy(), HEAD)
    np.testing.assert_allclose(image.affine.numpy(), AFFINE, atol=1e-4)


@pytest.mark.parametrize("factor", [1e300, 1e-300, 1e38])
def test_numbers_that_float32_cannot_hold_keep_their_proportions(factor: float, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(HEAD.astype(np.float64) * factor, AFFINE), tmp_path / "scan.nii.gz")
    values = LoadScan()(tmp_path / "scan.nii.gz")[0].numpy().astype(np.float64)
    np.testing.assert_allclose(values / values.max(), HEAD / HEAD.max(), rtol=1e-6)


# --------------------------------------------------------------------------------------------------------- background


def test_nan_outside_the_head_is_background(tmp_path: Path) -> None:
    data = np.where(HEAD > 100, HEAD, np.nan).astype(np.float32)
    nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "scan.nii.gz")
    values = LoadScan()(tmp_path / "scan.nii.gz")[0].numpy()
    np.testing.assert_array_equal(values, np.where(HEAD > 100, HEAD, HEAD[HEAD > 100].min()))


@pytest.mark.parametrize("size", [1, 3])
def test_nan_inside_the_head_is_refused_with_its_share(size: int, tmp_path: Path) -> None:
    data = HEAD.copy()
    data[12 : 12 + size, 14, 5] = np.nan
    nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "scan.nii.gz")
    with pytest.raises(ScanError, match=rf"has {size} NaN voxels inside the head, 0\.\d+% of it"):
        LoadScan()(tmp_path / "scan.nii.gz")


def test_nothing_but_nan_and_infinite_voxels(tmp_path: Path) -> None:
    for value, reason in ((np.nan, "nothing but NaN"), (np.inf, "infinite voxels")):
        nib.save(nib.Nifti1Image(np.full((5, 6, 7), value, np.float32), AFFINE), tmp_path / "scan.nii.gz")
        with pytest.raises(ScanError, match=reason):
            LoadScan()(tmp_path / "scan.nii.gz")


# ----------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
@pytest.mark.parametrize(("code", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_pictures_are_upright_as_exif_says(suffix: str, code: int, turn: int, tmp_path: Path) -> None:
    pixels = np.zeros((24, 40), np.uint8)
    pixels[:8, :20] = 200
    exif = Image.Exif()
    exif[0x0112] = code
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=exif)
    values = LoadScan()(tmp_path / f"a{suffix}")[0].numpy().T
    np.testing.assert_allclose(values, np.rot90(pixels, turn), atol=12)


def test_tiff_keeps_its_numbers_and_takes_maps_back(tmp_path: Path) -> None:
    values = HEAD[:, :, 5] / 7
    Image.fromarray(values.T).save(tmp_path / "a.tif")
    image = LoadScan()(tmp_path / "a.tif")
    np.testing.assert_array_equal(image[0].numpy(), values)
    image.meta["threshold"] = 1.0
    SaveScand("image", tmp_path / "out", "anomaly", own_format=True)({"image": image})
    np.testing.assert_array_equal(LoadScan()(tmp_path / "out" / "a_anomaly.tif")[0].numpy(), values)
    assert (tmp_path / "out" / "a_anomaly.png").is_file()


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray((HEAD[:, :, k] / 4).astype(np.uint8)) for k in (4, 5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ScanError, match="holds 2 pictures; split it"):
        LoadScan()(tmp_path / "a.tif")
