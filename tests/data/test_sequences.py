# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several sequences of one visit are one scan, however the data name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_dpmm_ad.data import find_scans, resolve_datalist
from monai_dpmm_ad.data.fitted_sequences import choose_sequences, find_sequences, match_sequences
from monai_dpmm_ad.data.sequences import arrange_sequences, check_names, image_files, list_entry, take_sequence
from monai_dpmm_ad.data.split import Split
from monai_dpmm_ad.errors import ScanError


def save(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.random.default_rng(0).random((6, 5, 4), dtype=np.float32), np.eye(4)), path)


def write(folder: Path, entry: Any, **more: Any) -> Path:
    path = folder / "list.json"
    path.write_text(json.dumps({"training": [entry], **more}))
    return path


def images(item: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        name: part and Path(part["image"]).relative_to(folder).as_posix() for name, part in item["sequences"].items()
    }


def test_a_datalist_names_the_images_of_a_scan(tmp_path: Path) -> None:
    entry = {"image": ["t1.nii.gz", "flair.nii.gz"], "channels": ["T1", "FLAIR"], "label": "mask.nii.gz"}
    (item,) = resolve_datalist(write(tmp_path, entry))
    assert images(item, tmp_path) == {"T1": "t1.nii.gz", "FLAIR": "flair.nii.gz"}
    assert item["image"] == str(tmp_path / "t1.nii.gz")
    assert item["label"] == str(tmp_path / "mask.nii.gz")
    assert image_files(item) == [str(tmp_path / "t1.nii.gz"), str(tmp_path / "flair.nii.gz")]
    assert "channels" not in item


def test_null_is_a_missing_sequence(tmp_path: Path) -> None:
    (item,) = resolve_datalist(write(tmp_path, {"image": [None, "flair.nii.gz"]}, channels=["T1", "FLAIR"]))
    assert images(item, tmp_path) == {"T1": None, "FLAIR": "flair.nii.gz"}
    assert item["image"] == str(tmp_path / "flair.nii.gz")
    assert list_entry(item) == {"image": [None, item["image"]], "channels": ["T1", "FLAIR"]}


def test_decathlons_4d_file_is_a_scan_of_its_modalities(tmp_path: Path) -> None:
    both = [{"image": "./imagesTr/a.nii.gz"}, {"image": "./imagesTr/plain.nii.gz"}]
    path = write(tmp_path, both[0], modality={"0": "FLAIR", "1": "T1w"}, validation=both[1:])
    save(tmp_path / "imagesTr" / "plain.nii.gz")
    file = str(tmp_path / "imagesTr" / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4, 2), np.float32), np.eye(4)), file)
    item, plain = resolve_datalist(path)
    assert plain == {"image": str(tmp_path / "imagesTr" / "plain.nii.gz"), "name": "plain"}
    parts = {"FLAIR": {"image": file, "channel": 0}, "T1w": {"image": file, "channel": 1}}
    assert item["sequences"] == parts
    assert image_files(item) == [file]
    assert list_entry(item) == {"image": file, "channels": ["FLAIR", "T1w"]}
    arranged = arrange_sequences(item, ["T1w", "FLAIR"])
    assert take_sequence(arranged, "FLAIR") == {"image": file, "channel": 0, "name": "a", "onto": parts["T1w"]}
    assert take_sequence(arranged, "T1w") == {"image": file, "channel": 1, "name": "a"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": ["a.nii.gz", "b.nii.gz"], "channels": ["T1"]}, "whose `channels` do not name its images"),
        ({"image": ["a.nii.gz", "b.nii.gz"], "channels": ["T1", "T1"]}, "whose `channels` do not name its images"),
        ({"image": ["a.nii.gz", "b.nii.gz"], "channels": "T1"}, "whose `channels` do not name its images"),
        ({"image": [None, None], "channels": ["T1", "T2"]}, "has an entry without `image`"),
    ],
)
def test_channels_that_name_nothing_are_refused(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        resolve_datalist(write(tmp_path, entry))


def test_bids_suffixes_are_joined_by_participant_and_session(tmp_path: Path) -> None:
    anat = tmp_path / "sub-01" / "ses-1" / "anat"
    save(anat / "sub-01_ses-1_acq-a_T1w.nii.gz", anat / "sub-01_ses-1_FLAIR.nii.gz", anat / "sub-01_ses-1_T2w.nii.gz")
    save(tmp_path / "sub-02" / "anat" / "sub-02_FLAIR.nii.gz")
    first, second = resolve_datalist(tmp_path, suffix=["T1w", "FLAIR"])
    inside = "sub-01/ses-1/anat/sub-01_ses-1"
    assert images(first, tmp_path) == {"T1w": f"{inside}_acq-a_T1w.nii.gz", "FLAIR": f"{inside}_FLAIR.nii.gz"}
    assert images(second, tmp_path) == {"FLAIR": "sub-02/anat/sub-02_FLAIR.nii.gz"}
    assert (first["name"], second["name"]) == ("sub-01_ses-1", "sub-02")
    assert [thing.kind for thing in find_scans(tmp_path, suffix=["T1w", "FLAIR"]).left_out] == ["other suffixes"]


def test_other_files_are_joined_by_their_folder_and_the_rest_of_the_name(tmp_path: Path) -> None:
    save(tmp_path / "patient07" / "T1.nii.gz", tmp_path / "patient07" / "FLAIR.nii.gz")
    save(tmp_path / "flat" / "a_T1.nii.gz", tmp_path / "flat" / "b_T1.nii.gz", tmp_path / "flat" / "b_FLAIR.nii.gz")
    found = {item["name"]: images(item, tmp_path) for item in resolve_datalist(tmp_path, suffix=["T1", "FLAIR"])}
    assert found == {
        "patient07": {"T1": "patient07/T1.nii.gz", "FLAIR": "patient07/FLAIR.nii.gz"},
        "a": {"T1": "flat/a_T1.nii.gz"},
        "b": {"T1": "flat/b_T1.nii.gz", "FLAIR": "flat/b_FLAIR.nii.gz"},
    }


def test_two_images_of_a_sequence_in_one_visit_are_no_choice(tmp_path: Path) -> None:
    save(*(tmp_path / f"sub-01_{rest}.nii.gz" for rest in ("run-1_T1w", "run-2_T1w", "FLAIR")))
    found = find_scans(tmp_path, suffix=["T1w", "FLAIR"])
    assert found.items == []
    (failure,) = found.failures
    assert failure.reason == "is of the same visit as sub-01_run-1_T1w.nii.gz: choose one with --pattern"


def test_one_suffix_is_no_sequence(tmp_path: Path) -> None:
    save(tmp_path / "a_T1.nii.gz", tmp_path / "a_FLAIR.nii.gz")
    (item,) = resolve_datalist(tmp_path, suffix=["T1"])
    assert item == {"image": str(tmp_path / "a_T1.nii.gz"), "name": "a_T1"}


SCAN = {"image": "a", "name": "a", "sequences": {"T1": {"image": "a"}, "FLAIR": {"image": "b"}}}


def test_a_scan_is_brought_into_the_bundles_order() -> None:
    arranged = arrange_sequences(SCAN, ["FLAIR", "T2", "T1"])
    assert arranged["sequences"] == {"FLAIR": {"image": "b"}, "T2": None, "T1": {"image": "a"}}
    assert arranged["image"] == "b"
    assert take_sequence(arranged, "T2") is None


def test_a_single_image_is_the_sequence_that_its_name_ends_in() -> None:
    item = arrange_sequences({"image": "x/sub-01_ce_T1w.nii.gz", "name": "x"}, ["T1w", "ce_T1w", "FLAIR"])
    assert [name for name, part in item["sequences"].items() if part] == ["ce_T1w"]


@pytest.mark.parametrize(
    ("item", "names", "message"),
    [
        (SCAN, None, "is a scan of the sequences T1 and FLAIR, but a single image is asked for"),
        (SCAN, ["T2", "DWI"], "has T1 and FLAIR alone: none of the sequences T2 and DWI that were fitted"),
        ({"image": "x.nii.gz"}, ["T2", "DWI"], "does not say which sequence it is: none of the sequences T2 and DWI"),
    ],
)
def test_what_does_not_fit_the_bundle_is_refused(item: dict[str, Any], names: list[str] | None, message: str) -> None:
    with pytest.raises(ScanError, match=message):
        arrange_sequences(item, names)


def test_a_run_goes_on_without_a_scan_that_has_none() -> None:
    found = find_scans([])
    found.items = [SCAN, {"image": "x.nii.gz", "name": "x"}]
    assert [item["name"] for item in match_sequences(found, ["T1", "T2"]).items] == ["a"]
    assert [error.path for error in found.failures] == ["x.nii.gz"]


def test_a_fit_finds_its_sequences(tmp_path: Path) -> None:
    path = write(tmp_path, {"image": ["a.nii.gz", "b.nii.gz"], "channels": ["T1", "FLAIR"]})
    assert find_sequences([path], None) == ("T1", "FLAIR")
    assert find_sequences([path], ["FLAIR", "T1"]) == ("FLAIR", "T1")
    assert find_sequences([tmp_path], None, suffix=["T1w", "T2w"]) == ("T1w", "T2w")
    assert find_sequences([tmp_path], None, suffix="T1w") is None
    with pytest.raises(ValueError, match=r"`sequences` must be one of FLAIR, T1, got 'DWI'\."):
        find_sequences([path], ["T1", "DWI"])


@pytest.mark.parametrize("names", [["T1"], ["T1", "T1"], list("abcde"), ["T1", "../x"]])
def test_names_that_cannot_be_fitted_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="`sequences` must "):
        check_names(names)


def test_a_sequence_is_fitted_where_it_is_there() -> None:
    second = {"image": "c", "name": "c", "sequences": {"T1": {"image": "c"}}}
    split = Split([SCAN, second], [second], True)
    flair = choose_sequences(split, ["T1", "FLAIR"], "FLAIR")
    assert flair.train == [{"image": "b", "name": "a", "onto": {"image": "a"}}]
    assert (flair.held_out, flair.is_held_out) == (flair.train, False)  # nobody who was held out has it
    whole = choose_sequences(split, ["T1", "FLAIR"])
    assert [item["sequences"]["FLAIR"] for item in whole.train] == [{"image": "b"}, None]
    with pytest.raises(ScanError, match="hold no scan with the sequence DWI"):
        choose_sequences(split, ["T1", "DWI"], "DWI")
    with pytest.raises(ScanError, match="a single image is asked for"):
        choose_sequences(split, None)


def test_names_of_a_file_are_no_list_of_scans(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"channels": ["T1", "FLAIR"], "mine": [{"image": ["a.nii.gz", "b.nii.gz"]}]}))
    (item,) = resolve_datalist(path)
    assert images(item, tmp_path) == {"T1": "a.nii.gz", "FLAIR": "b.nii.gz"}
