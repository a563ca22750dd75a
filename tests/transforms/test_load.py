# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Loading, every bad input, and the way back to the scan's own grid."""

from __future__ import annotations

import gzip
import itertools
import logging
import pickle
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.dicom_files import save_dicom
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, Spacingd
from PIL import Image

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import LoadScan, LoadScand, ScaleIntensityForegroundd, find_scan_error, source_of

ORIENTATIONS = [
    "".join(axes[i][flip[i]] for i in range(3))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for flip in itertools.product((0, 1), repeat=3)
]


def _oblique(angles=(0.2, -0.15, 0.1), spacing=(0.7, 1.1, 2.3)) -> np.ndarray:
    affine = np.eye(4)
    for axis, angle in enumerate(angles):
        rotation = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        rotation[a, a] = rotation[b, b] = np.cos(angle)
        rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, :3] = affine[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = [11.3, -20.9, 5.1]
    return affine


def _reoriented(array: np.ndarray, axcodes: str) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, _oblique())
    start = nib.io_orientation(image.affine)
    return image.as_reoriented(nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axcodes)))


# ------------------------------------------------------------------------------------------------------- good input


def test_nifti_is_channel_first_float_with_a_name(save, head):
    path = save(head.astype(np.int16), "sub-01_T1w.nii.gz")
    image = LoadScan()(path)
    assert image.dtype == torch.float32
    assert image.shape == (1, *head.shape)
    assert image.meta["name"] == "sub-01_T1w"
    assert source_of(image) == str(path)
    assert torch.equal(image[0].as_tensor(), torch.from_numpy(head.astype(np.int16)).float())
    assert LoadScan()(path, name="other").meta["name"] == "other"


def test_affine_is_the_files_own_even_where_voxel_sizes_disagree(tmp_path, head):
    image = nib.Nifti1Image(head, None)
    image.set_sform(_oblique(), code=2)
    image.set_qform(np.diag([3.0, 3.0, 3.0, 1.0]), code=1)
    nib.save(image, tmp_path / "a.nii")
    loaded = LoadScan()(tmp_path / "a.nii")
    assert np.array_equal(np.asarray(loaded.affine), nib.load(tmp_path / "a.nii").affine)


def test_trailing_single_dimension_is_no_fourth(save, head):
    assert LoadScan(spatial_dims=3)(save(head[..., None])).shape == (1, *head.shape)
    assert LoadScan(spatial_dims=3)(save(head[..., None, None], "five.nii")).shape == (1, *head.shape)


def test_one_slice_is_loaded_where_both_kinds_are(save, head):
    assert LoadScan()(save(head[:, :, 8:9])).shape == (1, 20, 24, 1)


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_a_map_returns_to_the_scans_own_grid_exactly(save, head, axcodes, tmp_path):
    source = _reoriented(head, axcodes)
    path = tmp_path / "scan.nii.gz"
    nib.save(source, path)
    preprocess = Compose(
        [
            LoadScand(),
            Orientationd("image", axcodes="PLI", labels=None),
            ScaleIntensityForegroundd(),
            CropForegroundd("image", source_key="image", margin=1, allow_smaller=True),
        ]
    )
    item = preprocess({"image": str(path), "name": "scan"})
    assert nib.aff2axcodes(item["image"].affine.numpy()) == ("P", "L", "I")
    drawn = torch.rand(item["image"].shape, generator=torch.Generator().manual_seed(0)) + 0.1
    item["pred"] = MetaTensor(drawn.clone())
    back = Invertd("pred", preprocess, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == (1, *source.shape)
    np.testing.assert_allclose(back.affine.numpy(), nib.load(path).affine, atol=1e-9)
    # Where the head is, the map has a value; and going forward again gives the same map, voxel for voxel.
    assert (back[0].numpy()[np.asarray(source.dataobj) > 50] > 0).all()
    again = Orientationd("pred", axcodes="PLI", labels=None)({"pred": back})["pred"].as_tensor()
    box = tuple(slice(a, b) for a, b in zip(item["foreground_start_coord"], item["foreground_end_coord"], strict=True))
    assert torch.equal(again[(slice(None), *box)], drawn)
    assert int((again > 0).sum()) == drawn.numel()


def test_spacing_and_its_inverse_keep_shape_and_affine(tmp_path, head):
    source = _reoriented(head, "IRA")
    path = tmp_path / "scan.nii"
    nib.save(source, path)
    preprocess = Compose(
        [
            LoadScand(),
            Orientationd("image", axcodes="PLI", labels=None),
            Spacingd("image", pixdim=(1.0, 1.0, 2.0)),
            ScaleIntensityForegroundd(),
            CropForegroundd("image", source_key="image", allow_smaller=True),
        ]
    )
    item = preprocess({"image": str(path)})
    item["pred"] = MetaTensor(torch.ones_like(item["image"].as_tensor()))
    back = Invertd("pred", preprocess, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == (1, *source.shape)
    np.testing.assert_allclose(back.affine.numpy(), source.affine, atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_picture_is_upright_after_orientation(tmp_path, suffix):
    pixels = np.full((10, 16), 40, dtype=np.uint8)
    pixels[:3] = 200  # the top
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    image = LoadScan(spatial_dims=2)(tmp_path / f"a.{suffix}")
    assert image.shape == (1, 16, 10)
    assert np.array_equal(np.asarray(image.affine), np.diag([-1, -1, 1, 1]))
    item = Orientationd("image", axcodes="PL", labels=None)({"image": image})
    upright = item["image"][0].numpy()
    assert upright.shape == (10, 16)
    assert upright[1].min() > 150
    assert upright[6].max() < 90


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_colour_becomes_grey(tmp_path, mode):
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[2:5, 2:6] = 153  # on the palette that "P" is given
    picture = Image.fromarray(pixels).convert("RGB").convert(mode)
    suffix = "jpg" if mode == "CMYK" else "png"
    picture.save(tmp_path / f"a.{suffix}")
    image = LoadScan()(tmp_path / f"a.{suffix}")
    assert image.shape == (1, 8, 8)
    np.testing.assert_allclose(image[0].numpy().T, pixels, atol=40 if mode == "CMYK" else 1)


def test_transparent_is_black(tmp_path):
    pixels = np.full((8, 8, 4), 255, dtype=np.uint8)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert LoadScan()(tmp_path / "a.png")[0].numpy().T[:4].max() == 0


def test_sixteen_bits_are_kept(tmp_path):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(LoadScan()(tmp_path / "a.png")[0].numpy().T, pixels.astype(np.float32))


# -------------------------------------------------------------------------------------------------------- bad input


def _bad(tmp_path, save, head, kind):
    nifti = {
        "nan": np.where(head == head.max(), np.nan, head),
        "inf": np.where(head == head.max(), np.inf, head),
        "constant": np.full((8, 8, 8), 7.0, np.float32),
        "4d": np.stack([head, head], axis=-1),
        "2d": head[:, :, 8],
        "one slice": head[:, :, 8:9],
        "complex": head.astype(np.complex64),
    }
    if kind in nifti:
        return save(nifti[kind])
    path = tmp_path / ("x.dcm" if kind == "text dicom" else "x.png" if "png" in kind else "x.nii.gz")
    whole = save(head, "whole.nii.gz").read_bytes()
    if kind == "missing":
        return tmp_path / "missing.nii.gz"
    if kind == "text":
        return _written(tmp_path / "notes.txt", b"not an image")
    if kind == "rgb":
        rgb = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        return save(rgb, "rgb.nii.gz")
    if kind in ("singular", "nonfinite affine", "huge"):
        return _header_edited(path, whole, kind)
    content = {
        "empty": b"",
        "text nifti": b"not an image at all, but long enough to look at " * 20,
        "text gzip": gzip.compress(b"not an image at all, but long enough to look at " * 20),
        "truncated gzip": whole[: len(whole) // 2],
        "truncated inside": gzip.compress(gzip.decompress(whole)[:-500]),
        "damaged gzip": whole[:200] + bytes(len(whole) - 200),
        "text png": b"not a picture",
        "text dicom": b"not dicom",
    }[kind]
    return _written(path, content)


def _written(path, content):
    path.write_bytes(content)
    return path


def _header_edited(path, whole, kind):
    raw = bytearray(gzip.decompress(whole))
    header = np.frombuffer(raw, dtype=nib.Nifti1Header.template_dtype, count=1)
    if kind == "huge":
        header["dim"][0, 1:4] = 30000
    else:
        header["sform_code"] = 1
        header["srow_x"] = 0 if kind == "singular" else np.nan
    return _written(path, gzip.compress(bytes(raw)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file or folder"),
        ("text", "is not an image that can be read"),
        ("text nifti", "is not an image"),
        ("text gzip", "is not an image"),
        ("text png", "is not an image"),
        ("text dicom", "holds no DICOM image"),
        ("empty", r"is empty \(0 bytes\)"),
        ("truncated gzip", "truncated"),
        ("truncated inside", "truncated"),
        ("damaged gzip", "damaged"),
        ("nan", "NaN or infinite voxels of"),
        ("inf", "has 1 infinite voxels of"),
        ("constant", "is constant: every voxel is 7"),
        ("4d", r"is 4D with shape \(20, 24, 18, 2\)"),
        ("2d", r"is a 2D image with shape \(20, 24\); a 3D volume is expected"),
        ("one slice", r"is a single slice with shape \(20, 24, 1\)"),
        ("complex", "voxels of type complex64"),
        ("rgb", "one real number per voxel"),
        ("singular", "singular affine"),
        ("nonfinite affine", "affine with NaN or infinite"),
        ("huge", r"claims shape \(30000, 30000, 30000\), 1\d\d,?\d*\.\d GiB; the limit is 4.0 GiB|claims shape"),
    ],
)
def test_bad_scan_is_named_with_its_reason(tmp_path, save, head, kind, reason, caplog, capfd):
    path = _bad(tmp_path, save, head, kind)
    with caplog.at_level(logging.DEBUG, "nibabel"), pytest.raises(ScanError, match=reason) as caught:
        LoadScand(spatial_dims=3)({"image": str(path)})
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    assert not caught.value.reason.endswith(".")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_volume_where_a_picture_is_expected(save, head):
    with pytest.raises(ScanError, match=r"is a 3D volume with shape .*; a 2D image is expected"):
        LoadScan(spatial_dims=2)(save(head))


def test_picture_larger_than_allowed(tmp_path):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ScanError, match=r"claims shape \(40, 40\)"):
        LoadScan(max_bytes=1000)(tmp_path / "a.png")


def test_truncated_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(ScanError, match="truncated"):
        LoadScan()(_written(tmp_path / "b.jpg", whole[: len(whole) // 2]))


def test_spatial_dims_is_checked():
    with pytest.raises(ValueError, match="`spatial_dims` must be 2, 3 or None, got 4"):
        LoadScan(spatial_dims=4)


def test_error_survives_compose_and_pickling(tmp_path):
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        Compose([LoadScand()])({"image": str(tmp_path / "no.nii")})
    error = find_scan_error(caught.value)
    assert error is not None
    assert error.reason == "no such file or folder"
    assert pickle.loads(pickle.dumps(error)).path == error.path
    assert find_scan_error(KeyError("x")) is None


# ----------------------------------------------------------------------------------------------------------- labels


def test_label_is_boolean_for_any_positive_value(save, head):
    mask = np.zeros(head.shape, np.uint8)
    mask[8:10, 12, 7], mask[8, 13, 7] = 254, 1
    item = LoadScand()({"image": save(head), "label": save(mask, "mask.nii.gz")})
    assert item["label"].dtype == torch.bool
    assert int(item["label"].sum()) == 3
    assert torch.equal(item["label"].affine, item["image"].affine)


def test_item_without_label_stays_without(save, head):
    assert "label" not in LoadScand()({"image": save(head)})
    assert "label" not in LoadScand()({"image": save(head), "label": None})


def test_empty_label_is_fine(save, head):
    item = LoadScand()({"image": save(head), "label": save(np.zeros(head.shape, np.uint8), "mask.nii")})
    assert not item["label"].any()


@pytest.mark.parametrize("inverted", [True, False])
def test_label_of_a_whole_volume_is_refused(save, head, inverted):
    mask = np.ones(head.shape, np.uint8)
    mask[8:10, 12, 7] = not inverted
    with pytest.raises(ScanError, match=r"label .*mask.nii marks all of the volume's edge; is it inverted or full\?"):
        LoadScand()({"image": save(head), "label": save(mask, "mask.nii")})
    mask[0, 0, 0] = 0
    assert LoadScand()({"image": save(head), "label": save(mask, "mask.nii")})["label"].any()
    slices = {"image": save(head[:, :, 7:8]), "label": save(np.ones_like(mask[:, :, 7:8]), "mask.nii")}
    assert LoadScand()(slices)["label"].all(), "a slice may be all lesion"


def test_label_is_cropped_and_turned_with_the_image(save, head):
    mask = (head > 50).astype(np.uint8)
    keys = ["image", "label"]
    preprocess = Compose(
        [
            LoadScand(),
            Orientationd(keys, axcodes="PLI", labels=None),
            ScaleIntensityForegroundd(),
            CropForegroundd(keys, source_key="image", allow_smaller=True),
        ]
    )
    item = preprocess({"image": save(head, affine=_oblique()), "label": save(mask, "m.nii", affine=_oblique())})
    assert item["label"].dtype == torch.bool
    assert torch.equal(item["label"].as_tensor(), item["image"].as_tensor() > 0.1)


def test_label_of_another_shape_names_both(save, head):
    label = save(np.zeros((5, 6, 7), np.uint8), "mask.nii.gz")
    with pytest.raises(ScanError, match=r"mask\.nii\.gz has shape \(5, 6, 7\) but the image has \(20, 24, 18\)") as e:
        LoadScand()({"image": save(head), "label": label})
    assert e.value.path.endswith("scan.nii.gz")


def test_label_of_another_affine(save, head):
    moved = np.diag([-1.0, -1.0, 1.0, 1.0])
    moved[0, 3] = 3
    label = save(np.zeros(head.shape, np.uint8), "mask.nii.gz", moved)
    with pytest.raises(ScanError, match=r"lies elsewhere: same shape \(20, 24, 18\).* by 3 voxels"):
        LoadScand()({"image": save(head), "label": label})
    nearly = np.diag([-1.0, -1.0, 1.0, 1.0]) + 1e-5
    label = save(np.zeros(head.shape, np.uint8), "near.nii.gz", nearly)
    assert "label" in LoadScand()({"image": save(head), "label": label})


def test_unreadable_label_names_image_and_label(save, head, tmp_path):
    with pytest.raises(ScanError, match=r"scan\.nii\.gz: label .*gone\.nii\.gz no such file"):
        LoadScand()({"image": save(head), "label": tmp_path / "gone.nii.gz"})


def test_label_in_a_lossy_format_is_split_in_the_middle(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:41, 19:37] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=50)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "i.png")
    item = LoadScand()({"image": tmp_path / "i.png", "label": tmp_path / "m.jpg"})
    assert np.array_equal(item["label"][0].numpy().T, mask > 0)


def test_coloured_label_keeps_every_colour(tmp_path):
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[3:5, 3:5, 2] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)).save(tmp_path / "i.png")
    item = LoadScand()({"image": tmp_path / "i.png", "label": tmp_path / "m.png"})
    assert int(item["label"].sum()) == 4


# ------------------------------------------------------------------------------------------------------------ DICOM


@pytest.fixture
def series(tmp_path, head):
    """Write ``head`` as a DICOM series whose file names and instance numbers say nothing about its order."""
    pydicom = pytest.importorskip("pydicom")
    folder = tmp_path / "series"
    folder.mkdir()
    order = np.random.default_rng(1).permutation(head.shape[2])
    for number, index in enumerate(order):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        data = pydicom.dataset.Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = "1.2.3", "MR", int(number)
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-5.0, 7.0, 3.0 + 2.5 * int(index)]
        data.PixelSpacing = [1.5, 0.5]
        pixels = head[:, :, index].T.astype(np.uint16)
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = pixels.tobytes()
        save_dicom(data, folder / f"IM{number:03d}")
    (folder / "notes.txt").write_text("written by the scanner")
    return folder


def test_dicom_series_is_sorted_by_position(series, head):
    image = LoadScan(spatial_dims=3)(series)
    assert np.array_equal(image[0].numpy(), head.astype(np.uint16))
    want = np.diag([-0.5, -1.5, 2.5, 1.0])
    want[:3, 3] = [5, -7, 3]
    np.testing.assert_allclose(np.asarray(image.affine), want)
    assert image.meta["name"] == "series"
    listed = LoadScan(spatial_dims=3)(sorted(str(p) for p in series.glob("IM*")))
    assert torch.equal(listed.as_tensor(), image.as_tensor())


def test_single_dicom_image_is_a_picture(series):
    image = LoadScan(spatial_dims=2)(series / "IM004")
    assert image.shape == (1, 20, 24)
    assert np.array_equal(np.asarray(image.affine), np.diag([-0.5, -1.5, 1, 1]))  # the pixels' own size


def _rewrite(path, **tags):
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(path)
    for tag, value in tags.items():
        if value is None:
            delattr(data, tag)
        else:
            setattr(data, tag, value)
    data.save_as(path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SeriesInstanceUID": "1.2.4"}, "holds 2 DICOM series"),
        ({"NumberOfFrames": 2}, "multi-frame"),
        ({"ImagePositionPatient": [-5.0, 7.0, 13.0]}, r"several slices at one position \(4D\)"),
        ({"ImagePositionPatient": [-5.0, 7.0, 300.0]}, r"mm apart; a slice may be missing between IM\d+ and IM000$"),
        ({"ImagePositionPatient": None}, r"without ImagePositionPatient, .* \(IM000\)$"),
        ({"PixelSpacing": [1.0, 1.0]}, r"differ in PixelSpacing; .* \(IM000\)$"),
        ({"SamplesPerPixel": 3}, "colour image"),
    ],
)
def test_irregular_dicom_series(series, tags, reason):
    index = 0
    _rewrite(series / f"IM{index:03d}", **tags)
    with pytest.raises(ScanError, match=reason) as caught:
        LoadScan()(series)
    assert caught.value.path == str(series)


def test_a_slice_that_cannot_be_decoded_is_named(series):
    (series / "IM001").write_bytes((series / "IM001").read_bytes()[:-20])
    with pytest.raises(ScanError, match="is truncated or damaged: it ends before its last voxel") as caught:
        LoadScan()(series)
    assert caught.value.path == str(series / "IM001"), "not the folder of hundreds"


def test_dicom_without_pydicom_says_how_to_get_it(series, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ScanError, match=r"pip install 'monai-dpmm-ad\[dicom\]'"):
        LoadScan()(series)


def test_folder_without_dicom(tmp_path, series):
    for file in series.glob("IM*"):
        file.unlink()
    with pytest.raises(ScanError, match="holds no DICOM image"):
        LoadScan()(series)
    shutil.rmtree(series)


def test_result_is_a_metatensor(save, head):
    assert isinstance(LoadScan()(save(head)), MetaTensor)


@pytest.mark.parametrize("damage", ["cut", "checksum"])
def test_the_checksum_of_a_compressed_file_is_read(save, head, damage):
    """A reader that stops at the last voxel would never see it."""
    path = save(head.astype(np.int16), "scan.nii.gz")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-6:]
    else:
        content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"scan\.nii\.gz: is (truncated or )?damaged"):
        LoadScan()(path)


def test_what_lies_behind_the_end_of_a_compressed_file_does_no_harm(save, head):
    path = save(head.astype(np.int16), "scan.nii.gz")
    whole = LoadScan()(path)
    path.write_bytes(path.read_bytes() + b"another program's note")
    assert torch.equal(LoadScan()(path).as_tensor(), whole.as_tensor())
