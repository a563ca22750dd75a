# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""BIDS, nnU-Net and Decathlon trees, and datalists as they are found."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.scans import make_head

from monai_dpmm_ad.data import find_scans, resolve_datalist, split_scans
from monai_dpmm_ad.errors import ScanError


def save(*paths: Path, seed: int = 0) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(make_head(seed=seed + number), np.eye(4)), path)


def pairs(items: list[dict], root: Path) -> dict[str, str | None]:
    return {
        str(Path(item["image"]).relative_to(root)): item.get("label") and str(Path(item["label"]).relative_to(root))
        for item in items
    }


# ---------------------------------------------------------------------------------------------------------------- BIDS


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    for subject in ("01", "02"):
        for session in ("1", "2"):
            folder = tmp_path / f"sub-{subject}" / f"ses-{session}"
            stem = f"sub-{subject}_ses-{session}"
            save(folder / "anat" / f"{stem}_T1w.nii.gz", folder / "anat" / f"{stem}_acq-hr_T2w.nii.gz")
    save(tmp_path / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-rest_sbref.nii.gz")
    return tmp_path


def test_bids_gives_one_suffix(bids: Path) -> None:
    with pytest.raises(ScanError, match=r"holds 3 kinds of image: T1w \(4\), T2w \(4\), sbref \(1\); choose one with"):
        resolve_datalist(bids)
    assert len(resolve_datalist(bids, suffix="T1w")) == 4
    assert len(resolve_datalist(bids, suffix="_t2W")) == 4
    assert len(resolve_datalist(bids, pattern="*ses-1*_T?w.nii.gz")) == 4
    assert len(resolve_datalist(bids, pattern="sub-02/*T1w*")) == 2
    with pytest.raises(ScanError, match=r"left out 9: 9 other suffixes; .* does not end in _FLAIR"):
        resolve_datalist(bids, suffix="FLAIR")


def test_subjects_of_bids_are_held_out_whole(bids: Path) -> None:
    split = split_scans(str(bids), None, 0.5, 0, suffix="T1w")
    assert (len(split.train), len(split.held_out)) == (2, 2)
    assert split.note is not None
    assert "the 2 held-out scans are of 1 person, but p-values count scans" in split.note


@pytest.mark.parametrize("layout", ["{s}/FLAIR.nii.gz {s}/T1.nii.gz", "{s}/{s}_flair.nii.gz {s}/{s}_t1ce.nii.gz"])
def test_kinds_that_recur_in_folders_are_told_apart(layout: str, tmp_path: Path) -> None:
    for subject in ("a1", "a2", "a3"):
        save(*(tmp_path / path.format(s=subject) for path in layout.split()))
    with pytest.raises(ScanError, match="holds 2 kinds of image"):
        resolve_datalist(tmp_path)
    assert len(resolve_datalist(tmp_path, suffix="flair")) == 3


def test_scans_of_one_kind_are_taken_whatever_their_names(tmp_path: Path) -> None:
    save(tmp_path / "a" / "scan_1.nii.gz", tmp_path / "a" / "scan_2.nii.gz", tmp_path / "b" / "scan_1.nii.gz")
    save(tmp_path / "old.nii.gz", tmp_path / "new.nii.gz")
    assert len(resolve_datalist(tmp_path)) == 5


# -------------------------------------------------------------------------------------------------- nnU-Net, Decathlon


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    for case in ("c1", "c2"):
        save(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", tmp_path / "labelsTr" / f"{case}.nii.gz")
    save(tmp_path / "imagesTs" / "c3_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "FLAIR"}, "numTraining": 2}))
    return tmp_path


def test_nnunet_cases_come_with_their_masks(nnunet: Path) -> None:
    train = find_scans(nnunet, section="training")
    assert pairs(train.items, nnunet) == {f"imagesTr/{c}_0000.nii.gz": f"labelsTr/{c}.nii.gz" for c in ("c1", "c2")}
    assert train.summary() == "took 2 scans (not asked for: 1 of section test)"
    assert pairs(resolve_datalist(nnunet, section="test"), nnunet) == {"imagesTs/c3_0000.nii.gz": None}
    with pytest.raises(ScanError, match="has no section 'valid', only train, test"):
        resolve_datalist(nnunet, section="validation")


def test_of_several_channels_one_is_chosen(nnunet: Path) -> None:
    save(nnunet / "imagesTr" / "c1_0001.nii.gz", nnunet / "imagesTr" / "c2_0001.nii.gz")
    (nnunet / "dataset.json").write_text(json.dumps({"channel_names": {"0": "FLAIR", "1": "T1"}}))
    with pytest.raises(
        ScanError, match=r"holds 2 channels: 0000 \(FLAIR\), 0001 \(T1\); choose one with --suffix 0000"
    ):
        resolve_datalist(nnunet, section="train")
    found = find_scans(nnunet, section="train", suffix="0001")
    assert pairs(found.items, nnunet) == {f"imagesTr/{c}_0001.nii.gz": f"labelsTr/{c}.nii.gz" for c in ("c1", "c2")}
    assert {thing.kind for thing in found.left_out} == {"other channels"}


def test_decathlon_lists_are_read_where_the_tree_has_them(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "a.nii.gz", tmp_path / "imagesTr" / "b.nii.gz", tmp_path / "labelsTr" / "a.nii.gz")
    save(tmp_path / "imagesTs" / "c.nii.gz")
    training = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": training, "test": ["./imagesTs/c.nii.gz"]}))
    assert pairs(resolve_datalist(tmp_path, section="train"), tmp_path) == {"imagesTr/a.nii.gz": "labelsTr/a.nii.gz"}
    assert pairs(resolve_datalist(tmp_path, section="test"), tmp_path) == {"imagesTs/c.nii.gz": None}


# ----------------------------------------------------------------------------------------------------------- datalists


def test_a_datalist_from_windows_is_read(tmp_path: Path) -> None:
    save(tmp_path / "scans" / "a.nii.gz")
    text = json.dumps({"test": [{"image": "scans\\a.nii.gz"}]})
    (tmp_path / "list.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (item,) = resolve_datalist(tmp_path / "list.json", section="test")
    assert item["image"] == str(tmp_path / "scans" / "a.nii.gz")


def test_channels_of_a_datalist_are_joined_only_by_name(tmp_path: Path) -> None:
    entry = {"image": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    (tmp_path / "list.json").write_text(json.dumps({"test": [entry]}))
    with pytest.raises(ScanError, match=r"has an entry with 2 images, .*, and no `channels` that name them"):
        resolve_datalist(tmp_path / "list.json")
    (tmp_path / "list.json").write_text(json.dumps({"test": [{"image": ["a.nii.gz"]}]}))
    assert resolve_datalist(tmp_path / "list.json")[0]["image"] == str(tmp_path / "a.nii.gz")


def test_fit_says_what_it_leaves_out_of_a_tree_with_abnormal_scans(tmp_path: Path) -> None:
    for place in ("train/good/a1", "train/good/a2", "train/Ungood/b", "test/good/c", "test/Ungood/d"):
        save(tmp_path / f"{place}.nii.gz")
    split = split_scans(str(tmp_path), None, 0.5, 0)
    assert len(split.train) == len(split.held_out) == 1
    expected = "took 2 scans (not asked for: 2 of section test), left out 1: 1 abnormal scans"
    assert split.found.summary() == expected
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": "train/Ungood/b.nii.gz", "abnormal": 1}]}))
    with pytest.raises(ScanError, match=r"is marked abnormal; .*; no scan is left \(1 abnormal scans left out\)"):
        split_scans(str(tmp_path / "list.json"), None, 0.5, 0)


def test_a_split_that_cannot_be_made_by_subject_says_so(tmp_path: Path) -> None:
    save(*(tmp_path / f"scan{letter}.nii.gz" for letter in "abcd"))
    split = split_scans(str(tmp_path), None, 0.25, 0)
    assert split.note is not None
    assert "nothing says whose 4 of the 4 scans are" in split.note


def test_a_pattern_that_nothing_matches_is_named(bids: Path) -> None:
    with pytest.raises(ScanError, match=r"holds \d+ files, none of which matches the pattern 'x\*'$"):
        resolve_datalist(bids, pattern="x*")


def test_one_subject_is_named(tmp_path: Path) -> None:
    save(*(tmp_path / "pid_2023" / f"sub-{who}_run-{run}_T1w.nii.gz" for who in "ab" for run in (1, 2)))
    assert len(split_scans(str(tmp_path), None, 0.5, 0).held_out) == 2
    with pytest.warns(UserWarning, match="there is one subject only, sub-b, so thresholds are"):
        split_scans(str(tmp_path), None, 0.5, 0, lambda items: [item for item in items if "sub-b" in item["image"]])


def test_held_out_scans_of_fitted_people_are_named(tmp_path: Path) -> None:
    save(*(tmp_path / "fit" / f"sub-{who}_ses-1_T1w.nii.gz" for who in "ab"))
    save(*(tmp_path / "held" / f"sub-{who}_ses-2_T1w.nii.gz" for who in "bc"))
    with pytest.warns(UserWarning, match="1 held-out scans seem to be of people who are fitted.*: sub-b_ses-2_T1w;"):
        split = split_scans(str(tmp_path / "fit"), str(tmp_path / "held"), 0.5, 0)
    assert (len(split.held_out), split.note) == (2, None)
    save(tmp_path / "held" / "sub-c_ses-3_T1w.nii.gz")
    with pytest.warns(UserWarning, match="1 held-out scans seem"):
        split = split_scans(str(tmp_path / "fit"), str(tmp_path / "held"), 0.5, 0)
    assert split.note == (
        "the 3 held-out scans are of 2 people, but p-values count scans: they are promised where each person has one"
    )
