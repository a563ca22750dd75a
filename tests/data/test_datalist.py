# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Every kind of path to a list of scans, their names, and splits by subject."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.dicom_files import save_dicom
from hypothesis import given
from hypothesis import strategies as st

from monai_dpmm_ad.data import add_regions, find_scans, resolve_datalist, split_by_subject
from monai_dpmm_ad.data.paths import is_dicom_file, safe_name, scan_stem, unique_names
from monai_dpmm_ad.data.subjects import name_subjects
from monai_dpmm_ad.errors import ScanError


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _names(items):
    return [item["name"] for item in items]


def _relative(items, root):
    return [str(Path(item["image"]).relative_to(root)) for item in items]


# ------------------------------------------------------------------------------------------------- files and folders


def test_folder_is_searched_recursively_and_sorted(tmp_path):
    _touch(tmp_path, "b.nii.gz", "sub/A.NII", "a.nii", "notes.txt", ".hidden.nii", "__MACOSX/c.nii", ".git/d.nii")
    items = resolve_datalist(tmp_path)
    assert _relative(items, tmp_path) == ["a.nii", "b.nii.gz", "sub/A.NII"]
    assert _names(items) == [f"{safe_name(tmp_path.name)}_a", "b", "sub_A"]


def test_own_outputs_are_left_out_of_folders_only(tmp_path):
    _touch(tmp_path, "a.nii.gz", "a_anomaly.nii.gz", "a_mask.nii.gz", "p_mask.png", "a_percentile.nii.gz")
    assert _names(resolve_datalist(tmp_path)) == ["a"]
    assert _names(resolve_datalist(tmp_path / "a_mask.nii.gz")) == ["a_mask"]
    (tmp_path / "a.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"holds no images \(left out 4: 2 maps of our own, 2 segmentations; a_anomaly"):
        resolve_datalist(tmp_path)


def test_kind_narrows_the_search(tmp_path):
    _touch(tmp_path, "a.nii.gz", "b.png", "c.JPG")
    found = find_scans(tmp_path)
    assert _names(found.items) == ["a"]
    assert found.summary() == "took 1 scan, left out 2: 2 pictures among volumes"
    assert _names(resolve_datalist(tmp_path, kind="nifti")) == ["a"]
    assert _names(resolve_datalist(tmp_path, kind="picture")) == ["b", "c"]
    with pytest.raises(ScanError, match="holds no images"):
        resolve_datalist(tmp_path, kind="dicom")
    with pytest.raises(ValueError, match=r"`kind` must be one of .*Did you mean 'nifti'"):
        resolve_datalist(tmp_path, kind="nifty")


def test_named_files_are_taken_as_they_are(tmp_path):
    _touch(tmp_path, "a.nii", "broken.txt")
    items = resolve_datalist([tmp_path / "a.nii", str(tmp_path / "broken.txt"), tmp_path / "a.nii", tmp_path])
    assert _relative(items, tmp_path) == ["a.nii", "broken.txt"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root: root / "missing", "no such file or folder"),
        (lambda root: root / "missing.nii.gz", "no such file or folder"),
        (lambda root: root, "is an empty folder"),
        (lambda root: _touch(root, "notes.txt"), "holds no images"),
        (lambda root: _touch(root, "x.json") / "x.json", "is not a readable JSON file"),
    ],
)
def test_path_that_leads_nowhere_is_named(tmp_path, make, reason):
    path = make(tmp_path)
    with pytest.raises(ScanError, match=f"^{re.escape(str(path))}: {reason}"):
        resolve_datalist(path)


def test_failures_are_collected_and_the_rest_is_found(tmp_path):
    _touch(tmp_path, "a.nii")
    failures: list[ScanError] = []
    items = resolve_datalist([tmp_path / "no", tmp_path / "a.nii"], failures=failures)
    assert _names(items) == ["a"]
    assert [error.reason for error in failures] == ["no such file or folder"]


# ------------------------------------------------------------------------------------------------------------- DICOM


def _dicom(path: Path, uid: str | None, rows: int = 4) -> None:
    pydicom = pytest.importorskip("pydicom")
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    if uid:
        data.SeriesInstanceUID = uid
    if rows:
        data.Rows = data.Columns = rows
    save_dicom(data, path)


def test_dicom_series_are_one_item_each(tmp_path):
    for k in range(3):
        _dicom(tmp_path / "p1" / "t1" / f"IM{k}", "1.1")
        _dicom(tmp_path / "p2" / "t1" / f"{k}.dcm", "1.2")
        _dicom(tmp_path / "mixed" / f"{k}.dcm", f"1.3.{k % 2}")
    _dicom(tmp_path / "p1" / "t1" / "report.dcm", "1.9", rows=0)
    _touch(tmp_path, "DICOMDIR", "p1/notes.txt")
    items = resolve_datalist(tmp_path)
    images = [item["image"] for item in items]
    assert images == [
        [str(tmp_path / "mixed" / "0.dcm"), str(tmp_path / "mixed" / "2.dcm")],
        str(tmp_path / "mixed" / "1.dcm"),
        str(tmp_path / "p1" / "t1"),
        str(tmp_path / "p2" / "t1"),
    ]
    names = _names(items)
    assert names[1] == "1"
    assert len({names[index] for index in (0, 2, 3) if re.fullmatch("[0-9a-f]{8}_series", names[index])}) == 3


def test_damaged_dicom_is_listed_so_that_it_can_fail(tmp_path):
    _touch(tmp_path, "a.dcm")
    assert _names(resolve_datalist(tmp_path)) == ["a"]


def test_dicom_without_pydicom(tmp_path, monkeypatch):
    _dicom(tmp_path / "a.dcm", "1.1")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ScanError, match=r"pydicom is needed and not installed\. Run: pip install"):
        resolve_datalist(tmp_path)


def test_dicom_is_known_by_its_preamble(tmp_path):
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "IM2").write_bytes(bytes(132))
    assert is_dicom_file(tmp_path / "IM1")
    assert not is_dicom_file(tmp_path / "IM2")
    assert not is_dicom_file(tmp_path / "missing")


# -------------------------------------------------------------------------------------------------------------- BMAD


@pytest.fixture
def bmad(tmp_path):
    return _touch(
        tmp_path / "brain",
        "train/good/001.png",
        "train/good/002.png",
        "valid/good/img/003.png",
        "valid/Ungood/img/003.png",
        "valid/Ungood/label/003.png",
        "test/good/img/1.png",
        "test/good/label/1.png",
        "test/Ungood/img/10.jpg",
        "test/Ungood/img/2.jpg",
        "test/Ungood/img/3.jpg",
        "test/Ungood/anomaly_mask/2.png",
        "test/Ungood/anomaly_mask/10.png",
    )


def test_bmad_tree_has_classes_and_masks_by_stem(bmad):
    items = {item["name"]: item for item in resolve_datalist(bmad, section="test")}
    assert sorted(items) == ["1", "10", "2", "3"]
    assert items["1"]["abnormal"] == 0
    assert items["1"]["label"].endswith("test/good/label/1.png")
    assert items["10"]["abnormal"] == 1
    assert items["10"]["label"].endswith("anomaly_mask/10.png")
    assert items["2"]["label"].endswith("anomaly_mask/2.png")
    assert "label" not in items["3"]


def test_bmad_images_may_lie_in_the_class_folder(bmad):
    items = resolve_datalist(bmad, section="train")
    assert _names(items) == ["001", "002"]
    assert [item["abnormal"] for item in items] == [0, 0]
    assert resolve_datalist(bmad, section="training") == items


def test_bmad_names_tell_the_classes_apart(bmad):
    assert _names(resolve_datalist(bmad, section="valid")) == ["Ungood_003", "good_003"]


def test_bmad_all_sections_or_one_section_folder(bmad):
    assert len(resolve_datalist(bmad)) == 8
    assert len(resolve_datalist(bmad / "test")) == 4
    assert len(resolve_datalist(bmad / "test", section="train")) == 4  # the folder is what was asked for


@pytest.mark.parametrize("wrapper", ["", "Brain_AD/BraTS2021_slice/"])
def test_bmad_may_lie_in_a_folder_of_its_own_and_put_the_kind_first(tmp_path, wrapper):
    sections = {"train/good": "a", "valid/img/good": "b", "valid/img/ungood": "c", "valid/label/ungood": "c"}
    sections |= {"Test/test/good": "d", "Test/test/Ungood": "e", "Test/test_label/Ungood": "e"}
    _touch(tmp_path, *(f"{wrapper}{folder}/{name}.png" for folder, name in sections.items()))
    found = {section: resolve_datalist(tmp_path, section=section) for section in ("train", "valid", "test")}
    classes = {section: [(item["name"], item["abnormal"]) for item in items] for section, items in found.items()}
    assert classes == {"train": [("a", 0)], "valid": [("b", 0), ("c", 1)], "test": [("e", 1), ("d", 0)]}
    labelled = {item["name"]: item["label"] for items in found.values() for item in items if "label" in item}
    assert labelled == {
        "c": str(tmp_path / wrapper / "valid/label/ungood/c.png"),
        "e": str(tmp_path / wrapper / "Test/test_label/Ungood/e.png"),
    }


def test_bmad_missing_section_lists_the_others(bmad):
    import shutil

    shutil.rmtree(bmad / "valid")
    with pytest.raises(ScanError, match="has no section 'valid', only test, train"):
        resolve_datalist(bmad, section="valid")
    for file in (bmad / "train/good").iterdir():
        file.unlink()
    with pytest.raises(ScanError, match="holds no images in its good and Ungood folders"):
        resolve_datalist(bmad, section="train")


# -------------------------------------------------------------------------------------------------------------- JSON


def _json(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_json_paths_are_relative_to_the_file(tmp_path):
    path = _json(
        tmp_path / "d.json",
        {
            "name": "a data set",
            "labels": {"0": "background"},
            "training": [{"image": "./im/a.nii.gz", "label": "lab/a.nii.gz", "subject": "s1"}],
            "test": ["im/b.nii.gz", {"image": "/abs/c.nii.gz", "abnormal": 1, "name": "my scan", "label": None}],
        },
    )
    (item,) = resolve_datalist(path, section="training")
    assert item == {
        "image": str(tmp_path / "im/a.nii.gz"),
        "label": str(tmp_path / "lab/a.nii.gz"),
        "subject": "s1",
        "name": "a",
    }
    assert resolve_datalist(path, section="train") == [item]
    test = resolve_datalist(path, section="test")
    assert [i["image"] for i in test] == [str(tmp_path / "im/b.nii.gz"), "/abs/c.nii.gz"]
    assert _names(test) == ["b", "my_scan"]
    assert test[1]["abnormal"] == 1
    assert "label" not in test[1]
    assert len(resolve_datalist(path)) == 3


@pytest.mark.parametrize("empty", ["null", '""', "NaN"])
def test_an_empty_cell_that_became_text_says_nothing(empty, tmp_path):
    """The folder itself was read as the mask, and a table's NaN ended the run."""
    path = tmp_path / "d.json"
    keys = ("label", "abnormal", "regions", "subject", "name", "covariates")
    said = ", ".join(f'"{key}": {empty}' for key in keys)
    path.write_text(f'{{"test": [{{"image": "a.nii.gz", {said}}}]}}')
    assert resolve_datalist(path) == [{"image": str(tmp_path / "a.nii.gz"), "name": "a"}]


@pytest.mark.parametrize(("value", "number"), [(1, 1), (True, 1), (0.0, 0), ("0", 0), ("1.0", 1), ("False", 0)])
def test_a_class_is_a_number_however_it_is_written(value, number, tmp_path):
    """As text "0" counted as abnormal in a fit and as normal in an evaluation."""
    (item,) = resolve_datalist(_json(tmp_path / "d.json", {"test": [{"image": "a.nii.gz", "abnormal": value}]}))
    assert item["abnormal"] is number


@pytest.mark.parametrize("value", ["healthy", 2, 0.7, [1]])
def test_a_class_that_is_none_is_refused(value, tmp_path):
    path = _json(tmp_path / "d.json", {"test": [{"image": "a.nii.gz", "abnormal": value}]})
    with pytest.raises(ScanError, match=r"d.json: has an entry whose `abnormal` is .*write 1, or 0 for normal"):
        resolve_datalist(path)


def test_json_with_other_keys(tmp_path):
    path = _json(tmp_path / "d.json", {"fold1": ["a.nii"], "fold2": [{"image": ["s/1.dcm", "s/2.dcm"]}]})
    assert len(resolve_datalist(path)) == 2
    (item,) = resolve_datalist(path, section="fold2")
    assert item["image"] == [str(tmp_path / "s/1.dcm"), str(tmp_path / "s/2.dcm")]


def test_a_table_is_no_datalist(tmp_path):
    (tmp_path / "scans.csv").write_text("image\na.nii\n")
    with pytest.raises(ScanError, match=r"scans\.csv: is a table, no image; a list of scans is a JSON file$"):
        resolve_datalist(tmp_path / "scans.csv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"training": ["a.nii"]}, "has no section 'test', only training"),
        ({}, "has no section 'test', only no list at all"),
        (["a.nii"], 'is no datalist, an object with lists of scans: {"training"'),
        ({"test": []}, "lists no images"),
        ({"test": [{"label": "a.nii"}]}, "has an entry without `image`"),
        ({"test": [3]}, "has an entry without `image`"),
        ({"test": [{"image": 3}]}, "has an entry whose path is not text: 3"),
    ],
)
def test_bad_json_is_named(tmp_path, content, reason):
    with pytest.raises(ScanError, match=reason):
        resolve_datalist(_json(tmp_path / "d.json", content), section="test")


def test_a_second_entry_of_a_scan_is_left_out_with_its_reason(tmp_path):
    raters = [{"image": "a.nii", "label": f"{rater}.nii"} for rater in ("one", "two", "one")]
    found = find_scans([_json(tmp_path / "d.json", {"test": raters}), tmp_path / "d.json"], section="test")
    assert [Path(item["label"]).name for item in found.items] == ["one.nii"]
    assert {(thing.path, thing.kind, thing.reason) for thing in found.left_out} == {
        (
            str(tmp_path / "a.nii"),
            "further entries of a scan",
            "is listed again with another label; the first entry is taken",
        )
    }


def test_a_key_that_is_nearly_a_known_one_is_named(tmp_path):
    entries = [{"image": "a.nii", "lable": "b.nii", "age": 3}, {"image": "c.nii", "name": "c", "fname": "x"}]
    path = _json(tmp_path / "d.json", {"test": entries})
    with pytest.warns(
        UserWarning, match=r"d.json: entries have the key 'lable', which .* Did you mean 'label'\?$"
    ) as told:
        resolve_datalist(path)
    assert len(told) == 1, "other keys are the user's own"


# ------------------------------------------------------------------------------------------------------------- names


def test_equal_stems_get_as_many_folders_as_it_takes(tmp_path):
    _touch(tmp_path, "a/patient07/FLAIR.nii.gz", "a/patient19/FLAIR.nii.gz", "b/patient19/FLAIR.nii.gz", "T1.nii")
    assert _names(resolve_datalist(tmp_path)) == ["T1", "patient07_FLAIR", "a_patient19_FLAIR", "b_patient19_FLAIR"]


def test_same_stem_in_one_folder_is_numbered(tmp_path):
    _touch(tmp_path, "x.nii", "x.nii.gz", "x.mgz")
    names = _names(resolve_datalist(tmp_path))
    assert len(set(names)) == 3
    assert all(name.endswith(("x", "x_2", "x_3")) for name in names)


words = st.text(st.sampled_from("abAB_.- /é"), min_size=0, max_size=4)


@given(st.lists(st.lists(words, min_size=1, max_size=4), max_size=12))
def test_names_are_unique_and_safe(parts):
    names = unique_names([[safe_name(word) for word in part] for part in parts])
    assert len({name.lower() for name in names}) == len(parts)
    for name in names:
        assert name
        assert re.fullmatch(r"[\w.\-]+", name)
        assert not name.startswith(".")


@given(st.text(max_size=300))
def test_safe_name_is_safe_and_stable(text):
    name = safe_name(text)
    assert re.fullmatch(r"[\w\-][\w.\-]*", name)
    assert len(name.encode()) <= 180
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/d/a.nii.gz", "a"),
        ("a.b.nii", "a.b"),
        ("/d/sub-01/anat", "anat"),
        ("x.PNG", "x"),
        ("/d/.nii.gz", "nii.gz"),
        ("/d/case 3.jpeg", "case_3"),
        ("/d/IM001.dcm", "IM001"),
    ],
)
def test_scan_stem(path, stem):
    assert scan_stem(path) == stem


# ------------------------------------------------------------------------------------------------------------- splits


def test_split_keeps_subjects_together():
    items = [{"image": f"/d/patient{p:02d}/{c}.nii.gz"} for p in range(10) for c in ("T1", "T2", "FLAIR")]
    train, held_out = split_by_subject(items, 0.2, seed=1)
    assert len(train) == 24
    assert len(held_out) == 6
    assert not {Path(i["image"]).parent for i in train} & {Path(i["image"]).parent for i in held_out}
    assert sorted(train + held_out, key=str) == sorted(items, key=str)
    again = split_by_subject(items[::-1], 0.2, seed=1)
    assert sorted(again[1], key=str) == sorted(held_out, key=str)
    assert any(split_by_subject(items, 0.2, seed=s)[1] != held_out for s in range(2, 8))


@pytest.mark.parametrize(
    ("images", "subjects"),
    [
        (["/d/sub-01/ses-1/anat/sub-01_T1w.nii", "/d/sub-01/ses-2/anat/sub-01_T1w.nii", "/d/sub-02/a.nii"], 2),
        (["/d/sub-control01_T1w.nii", "/d/sub-control01_T2w.nii", "/d/sub-control02_T1w.nii"], 2),
        (["/patients/study_case_7_a.png", "/patients/study_case_7_b.png", "/patients/study_case_8_a.png"], 2),
        (["/d/1.png", "/d/2.png", "/d/3.png"], 3),
        (["/sub-study/case_2024/1.png", "/sub-study/case_2024/2.png", "/sub-study/case_2024/3.png"], 3),
        (["/d/test/1.png", "/d/compatible3/2.png", "/d/compatible3/3.png"], 3),
    ],
)
def test_what_counts_as_a_subject(images, subjects):
    items = [{"image": image} for image in images]
    held_out = split_by_subject(items, 1 / subjects)[1]
    sizes = {len(split_by_subject(items, 1 / subjects, seed=s)[1]) for s in range(20)}
    assert held_out
    assert sizes == ({1} if subjects == 3 else {1, 2})


@pytest.mark.parametrize(
    ("images", "who"),
    [
        (["/d/sub-01/ses-1/anat/a.png", "/d/sub-01/ses-2/anat/b.png"], "sub-01"),  # who is named as BIDS does
        (["/d/patient07/1/T1.png", "/d/patient07/2/T1.png"], "patient07"),  # files called alike are sessions
        (["/case_2024/healthy/anna/T1.png", "/case_2024/healthy/ben/T1.png"], None),
        (["/sub-study/1.png", "/sub-study/2.png"], None),
    ],
)
def test_whom_a_folder_of_all_scans_names(images: list[str], who: str | None) -> None:
    assert name_subjects([{"image": image} for image in images]) == [who, who]


def test_given_subject_counts_first():
    items = [{"image": f"/d/patient{k}.nii", "subject": k // 2} for k in range(6)]
    held_out = split_by_subject(items, 0.3)[1]
    assert len(held_out) == 2
    assert len({item["subject"] for item in held_out}) == 1


def test_split_of_one_subject_or_none_holds_nothing_out():
    one = [{"image": "/d/sub-1_a.nii"}, {"image": "/d/sub-1_b.nii"}]
    assert split_by_subject(one, 0.5) == (one, [])
    assert split_by_subject([], 0.5) == ([], [])
    two = [{"image": "/d/a.nii"}, {"image": "/d/b.nii"}]
    assert split_by_subject(two, 0.0) == (two, [])
    assert [len(part) for part in split_by_subject(two, 0.01)] == [1, 1]
    assert [len(part) for part in split_by_subject(two, 0.99)] == [1, 1]
    with pytest.raises(ValueError, match="`fraction` must be at least 0 and below 1, got 1"):
        split_by_subject(two, 1)


def test_an_atlas_is_for_every_scan_that_has_no_regions_of_its_own(tmp_path):
    _touch(tmp_path, "a.nii", "b.nii", "own.nii")
    (tmp_path / "list.json").write_text(
        json.dumps({"test": [{"image": "a.nii"}, {"image": "b.nii", "regions": "own.nii"}]})
    )
    items = resolve_datalist(tmp_path / "list.json")
    assert [item["regions"] for item in add_regions(items, "atlas.nii")] == ["atlas.nii", str(tmp_path / "own.nii")]
    assert add_regions(items, None) == items


def test_of_a_file_and_links_to_it_the_file_is_taken(tmp_path: Path) -> None:
    scan = tmp_path / "patient.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), scan)
    for name in ("a_link.nii.gz", "z_link.nii.gz"):
        (tmp_path / name).symlink_to(scan)
    found = find_scans([tmp_path, scan])
    assert [item["name"] for item in found.items] == ["patient"]
    assert {Path(thing.path).name for thing in found.left_out} == {"a_link.nii.gz", "z_link.nii.gz"}
    assert all(thing.reason == f"is the same file as {scan}" for thing in found.left_out)


def test_an_image_that_a_table_left_empty_is_no_image(tmp_path: Path) -> None:
    listed = tmp_path / "scans.json"
    listed.write_text('{"test": [{"image": NaN}]}')
    with pytest.raises(ScanError, match="without `image`"):
        resolve_datalist(listed, section="test")
