# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is a scan: each kind of thing that is none is left out of a folder with its reason, and refused where named."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.scans import make_head, write_slice, write_slices
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from monai_dpmm_ad.data import find_scans, resolve_datalist
from monai_dpmm_ad.data.gate import LeftOut, summarise, write_left_out
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import LoadScan, write_map

pydicom = pytest.importorskip("pydicom")
CLASS = "1.2.840.10008.5.1.4.1.1."


def save(path: Path, data: np.ndarray, **fields: Any) -> Path:
    image = nib.Nifti1Image(data, np.diag([2.0, 2, 4, 1]))
    for name, value in fields.items():
        image.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def kinds(found: Any) -> dict[str, str]:
    return {Path(thing.path).name: thing.kind for thing in found.left_out}


def labels(number: int, dtype: type = np.uint8) -> np.ndarray:
    """Blocks of ``number`` labels, as a parcellation has them."""
    blocks = np.random.default_rng(0).permutation(np.arange(1, 217) % number).reshape(6, 6, 6)
    return blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(dtype)


NOT_SCANS = {
    "binary mask": (lambda path: save(path, (make_head() > 300).astype(np.uint8)), "whole numbers with 2 values"),
    "mask in float": (lambda path: save(path, (make_head() > 300).astype(np.float64)), "whole numbers with 2 values"),
    "few labels": (lambda path: save(path, labels(12)), "whole numbers with 12 values"),
    "parcellation": (lambda path: save(path, labels(150, np.int16)), "150 values in patches"),
    "intent": (lambda path: save(path, labels(30), intent_code=1002), "label map (intent code 1002)"),
    "t map": (lambda path: save(path, make_head().astype(np.float32) / 7, intent_code=3), "statistical map"),
    "own map": (
        lambda path: write_map(path, np.random.default_rng(0).random((9, 9, 9), np.float32), OWN_META),
        "was written by this program",
    ),
}
OWN_META = {"filename_or_obj": "x.mha", "original_affine": np.eye(4)}


@pytest.mark.parametrize("kind", NOT_SCANS)
def test_a_volume_that_is_no_image_is_left_out_and_refused_where_named(kind: str, tmp_path: Path) -> None:
    make, reason = NOT_SCANS[kind]
    save(tmp_path / "scan.nii.gz", make_head())
    make(tmp_path / "other.nii.gz")
    found = find_scans(tmp_path)
    assert [item["name"] for item in found.items] == ["scan"]
    (thing,) = found.left_out
    assert reason in thing.reason
    with pytest.raises(ScanError) as caught:
        resolve_datalist(tmp_path / "other.nii.gz")
    assert (caught.value.path, caught.value.reason) == (str(tmp_path / "other.nii.gz"), thing.reason)


@pytest.mark.parametrize(
    "data",
    [
        make_head(),
        make_head().astype(np.float32) / 3,
        (make_head() / 8).astype(np.uint8),
        np.where(make_head() > 100, make_head(), 0),
        (make_head() / 4).round() * 4,
    ],
    ids=["int16", "float", "8 bit", "stripped", "coarse grey"],
)
def test_images_of_whole_numbers_are_scans(data: np.ndarray, tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz", data)
    save(tmp_path / "coded.nii.gz", data, intent_code=1002)  # what it holds counts more than what it is called
    assert [item["name"] for item in find_scans(tmp_path).items] == ["coded", "scan"]


@pytest.mark.parametrize("ending", ["seg", "dseg", "label", "mask", "labels", "Segmentation", "aseg"])
def test_names_of_segmentations_count_in_folders_only(ending: str, tmp_path: Path) -> None:
    save(tmp_path / "a_T1w.nii.gz", make_head())
    path = save(tmp_path / f"a_{ending}.nii.gz", make_head(seed=1))
    assert [item["name"] for item in find_scans(tmp_path).items] == ["a_T1w"]
    assert [item["image"] for item in find_scans(path).items] == [str(path)]


@pytest.mark.parametrize("name", ["T1.nii.gz", "masked_T1.nii.gz", "segment1.nii.gz", "labelled_scan.nii.gz"])
def test_other_names_are_no_segmentations(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, make_head())
    assert len(find_scans(tmp_path).items) == 1


def test_pictures_of_our_own_are_known_by_their_mark(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    for name in ("plain.png", "drawn.png", "drawn.tif"):
        info = PngInfo()
        info.add_text("Software", "monai_dpmm_ad")
        mark = {} if name == "plain.png" else {"pnginfo": info, "software": "monai_dpmm_ad"}
        Image.fromarray(pixels).save(tmp_path / name, **mark)
    found = find_scans(tmp_path)
    assert [item["name"] for item in found.items] == ["plain"]
    assert kinds(found) == {"drawn.png": "maps of our own", "drawn.tif": "maps of our own"}


DICOM = {
    "localiser": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localisers"),
    "scout": ({"ImageType": ["ORIGINAL", "PRIMARY", "SCOUT"]}, "localisers"),
    "secondary": ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "secondary images"),
    "capture": ({"SOPClassUID": f"{CLASS}7"}, "secondary captures"),
    "screenshot": ({"ImageType": ["DERIVED", "PRIMARY", "SCREEN SAVE"]}, "secondary captures"),
    "segmentation": ({"SOPClassUID": f"{CLASS}66.4"}, "segmentations"),
    "parametric map": ({"SOPClassUID": f"{CLASS}30"}, "parametric maps"),
    "dose": ({"SOPClassUID": f"{CLASS}481.2"}, "radiotherapy objects"),
    "report": ({"SOPClassUID": f"{CLASS}88.33"}, "reports"),
    "document": ({"SOPClassUID": f"{CLASS}104.1"}, "documents"),
    "spectroscopy": ({"SOPClassUID": f"{CLASS}4.2"}, "spectroscopy"),
    "segmentation without class": ({"SOPClassUID": None, "Modality": "SEG"}, "segmentations"),
    "own": ({"Manufacturer": "monai_dpmm_ad"}, "maps of our own"),
    "no pixels": ({"Rows": None, "PixelData": None}, "DICOM files without pixels"),
}


@pytest.mark.parametrize("kind", DICOM)
def test_dicom_files_that_are_no_patient_image_are_left_out(kind: str, tmp_path: Path) -> None:
    tags, left_out_as = DICOM[kind]
    write_slices(tmp_path / "a", make_head())
    path = write_slice(tmp_path / "a" / "X", make_head()[:, :, 5].T, 0, series="5", **tags)
    found = find_scans(tmp_path)
    assert len(found.items) == 1
    assert kinds(found) == {"X": left_out_as}
    named = find_scans(path)
    if kind in ("secondary", "capture"):  # a reformatted series is one, for whoever wants it
        assert len(named.items) == 1
    else:
        assert not named.items
        assert named.failures[0].reason == found.left_out[0].reason


def test_what_lies_in_a_folder_and_cannot_be_read_is_listed(tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz", make_head())
    for name in ("notes.txt", "scan.json", "scan.bval", "data.npy", "lone.img", "scan.mnc"):
        (tmp_path / name).write_bytes(b"something else")
    found = find_scans(tmp_path)
    assert kinds(found) == dict.fromkeys(("data.npy", "lone.img", "scan.mnc"), "files of other kinds")
    assert found.summary() == "took 1 scan, left out 3: 3 files of other kinds"


def test_one_bad_path_among_several_is_a_failure_of_its_own(tmp_path: Path) -> None:
    save(tmp_path / "a" / "scan.nii.gz", make_head())
    (tmp_path / "empty").mkdir()
    found = find_scans([tmp_path / "empty", tmp_path / "no", tmp_path / "a"])
    assert [item["name"] for item in found.items] == ["scan"]
    assert [error.reason for error in found.failures] == ["is an empty folder", "no such file or folder"]


def test_the_dimension_of_the_bundle_counts(tmp_path: Path) -> None:
    Image.fromarray(make_head()[:, :, 5].astype(np.uint8)).save(tmp_path / "slice.png")
    assert len(find_scans(tmp_path, spatial_dims=2).items) == 1
    found = find_scans(tmp_path, spatial_dims=3)
    assert not found.items
    assert found.left_out[0].reason == "is a 2D picture; this bundle was fitted on 3D scans"
    assert find_scans(tmp_path / "slice.png", spatial_dims=3).failures[0].reason == found.left_out[0].reason


def test_a_bundle_of_pictures_takes_no_volume(tmp_path: Path) -> None:
    head = make_head()
    save(tmp_path / "volume.nii.gz", head)
    save(tmp_path / "flat.nii.gz", head[:, :, 5:6])
    write_slices(tmp_path / "series", head)
    write_slice(tmp_path / "slice" / "IM0", head[:, :, 5].T, 5, "9")
    found = find_scans(tmp_path, spatial_dims=2)
    assert [item["image"] for item in found.items] == [str(tmp_path / "flat.nii.gz"), str(tmp_path / "slice" / "IM0")]
    assert kinds(found) == dict.fromkeys(("volume.nii.gz", "series"), "volumes")
    assert {thing.reason for thing in found.left_out} == {"is a 3D volume; this bundle was fitted on 2D pictures"}
    named = find_scans(tmp_path / "volume.nii.gz", spatial_dims=2)
    assert [error.reason for error in named.failures] == ["is a 3D volume; this bundle was fitted on 2D pictures"]
    assert LoadScan(spatial_dims=2)(tmp_path / "flat.nii.gz").shape == (1, *head.shape[:2], 1)
    with pytest.raises(ScanError, match="is a 3D volume with shape"):  # where the gate does not ask the header
        LoadScan(spatial_dims=2)(tmp_path / "volume.nii.gz")


def test_summary_and_table(tmp_path: Path) -> None:
    things = [LeftOut("a", "localisers", "is one"), LeftOut("b", "localisers", "is"), LeftOut("c", "segmentations", "")]
    assert summarise(12, things) == "took 12 scans, left out 3: 2 localisers, 1 segmentations"
    assert summarise(12, []) is None
    write_left_out(tmp_path, things)
    with open(tmp_path / "left_out.csv", newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [(t.path, t.kind, t.reason) for t in things]
    write_left_out(tmp_path, [])
    assert not (tmp_path / "left_out.csv").exists()
