# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""DICOM: whose scan a file belongs to, where its slices lie, and what its stored numbers mean."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scans import ROOT, make_head, write_slice, write_slices

from monai_dpmm_ad.data import find_scans, resolve_datalist, split_by_subject
from monai_dpmm_ad.data.subjects import name_subject
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import LoadScan

pydicom = pytest.importorskip("pydicom")
HEAD = make_head()


def read(path: Path) -> np.ndarray:
    """Values of the one scan below a folder."""
    (item,) = find_scans(path).items
    return LoadScan()(item["image"])[0].numpy()


# ------------------------------------------------------------------------------------------------------------- series


def test_a_series_is_one_wherever_its_files_lie(tmp_path: Path) -> None:
    for index in range(HEAD.shape[2]):
        write_slice(tmp_path / f"{index % 3}" / f"d{index}" / "I0", HEAD[:, :, index].T, index)
    (item,) = find_scans(tmp_path).items
    assert len(item["image"]) == HEAD.shape[2]
    np.testing.assert_array_equal(LoadScan()(item["image"])[0].numpy(), HEAD)


@pytest.mark.parametrize("share", [0.6, 0.97])
def test_a_slice_that_was_cut_off_is_named(tmp_path: Path, share: float) -> None:
    damaged = sorted(write_slices(tmp_path / "a", HEAD).iterdir())[4]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ScanError, match=r"is truncated or damaged: it ends before its last voxel$") as caught:
        read(tmp_path)
    assert caught.value.path == str(damaged)


def test_equal_images_count_once(tmp_path: Path) -> None:
    write_slices(tmp_path / "a", HEAD)
    write_slices(tmp_path / "backup" / "a", HEAD)
    found = find_scans(tmp_path)
    assert [item["image"] for item in found.items] == [str(tmp_path / "a")]
    assert {thing.kind for thing in found.left_out} == {"copies"}
    np.testing.assert_array_equal(read(tmp_path / "backup"), HEAD)
    write_slice(tmp_path / "a" / "again", HEAD[:, :, 3].T, 3)  # in the same folder as well
    np.testing.assert_array_equal(read(tmp_path / "a"), HEAD)


def test_images_with_one_identifier_are_no_copies(tmp_path: Path) -> None:
    """Some anonymisers write the same SOPInstanceUID into every file, or the same ones for every patient."""
    write_slices(tmp_path / "a", HEAD, SOPInstanceUID="1.2.3.4")
    np.testing.assert_array_equal(read(tmp_path / "a"), HEAD)
    np.testing.assert_array_equal(LoadScan()(tmp_path / "a")[0].numpy(), HEAD)


def test_patients_with_the_same_identifiers_are_never_one_scan(tmp_path: Path) -> None:
    other = make_head(seed=1)
    write_slices(tmp_path / "a", HEAD, PatientID="P1")
    write_slices(tmp_path / "b", other, PatientID="P2")
    write_slices(tmp_path / "c", HEAD, PatientID="P3")  # P1's pictures under another number
    found = find_scans(tmp_path)
    assert [(item["image"], item["subject"]) for item in found.items] == [
        (str(tmp_path / "a"), "patient P1"),
        (str(tmp_path / "b"), "patient P2"),
    ]
    assert len({item["name"] for item in resolve_datalist(tmp_path)}) == 2
    assert {Path(thing.path).parent.name for thing in found.left_out} == {"c"}
    for item, head in zip(found.items, (HEAD, other), strict=True):
        np.testing.assert_array_equal(LoadScan()(item["image"])[0].numpy(), head)


def test_a_datalist_of_series_is_split_by_patient(tmp_path: Path) -> None:
    """Of folders and lists of files the patient was not asked for: one was fitted and held out."""
    for number, patient in enumerate("AABB"):
        write_slices(tmp_path / f"x{number}", HEAD, series=f"5{number}", PatientID=patient)
    files = [str(file) for file in sorted((tmp_path / "x1").iterdir())]
    entries = [{"image": "x0"}, {"image": files}, {"image": "x2"}, {"image": "x3", "subject": "own"}]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    items = find_scans(tmp_path / "list.json").items
    assert [item["subject"] for item in items] == ["patient A", "patient A", "patient B", "own"]


def test_a_slice_of_another_patient_is_not_taken_into_a_scan(tmp_path: Path) -> None:
    write_slices(tmp_path / "a", HEAD)
    write_slice(tmp_path / "a" / "stray", HEAD[:, :, 0].T, HEAD.shape[2], PatientID="P2")
    assert [item["subject"] for item in find_scans(tmp_path).items] == ["patient P1", "patient P2"]
    with pytest.raises(ScanError, match=r"images of 2 patients \(PatientID\)"):
        LoadScan()(tmp_path / "a")


@pytest.mark.parametrize("folder", ["b", "a"])
def test_a_whole_copy_takes_the_place_of_a_damaged_one(folder: str, tmp_path: Path) -> None:
    """In another folder and in the same one; the damaged file comes first."""
    write_slices(tmp_path / "a", HEAD)
    damaged = sorted((tmp_path / "a").iterdir())[3]
    whole = tmp_path / folder / f"{damaged.name}-again"
    whole.parent.mkdir(exist_ok=True)
    whole.write_bytes(damaged.read_bytes())
    damaged.write_bytes(damaged.read_bytes()[:-200])
    found = find_scans(tmp_path)
    (item,) = found.items
    np.testing.assert_array_equal(LoadScan()(item["image"])[0].numpy(), HEAD)
    assert [(thing.path, thing.kind) for thing in found.left_out] == [(str(damaged), "copies")]
    whole.write_bytes(damaged.read_bytes())  # none is whole: the first one says why it fails
    with pytest.raises(ScanError):
        LoadScan()(find_scans(tmp_path).items[0]["image"])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00Ul"),  # a representation that does not exist
        (b"DS\x18\x001.0\\0.0\\0.0", b"DS\x18\x001.0\\0\xff\x7f\\0.0"),  # no number
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_value_in_a_header_costs_that_file_alone(good: bytes, bad: bytes, tmp_path: Path) -> None:
    write_slices(tmp_path, HEAD, SeriesInstanceUID=None)
    damaged = sorted(tmp_path.iterdir())[-1]
    assert good in damaged.read_bytes()
    damaged.write_bytes(damaged.read_bytes().replace(good, bad))
    images = [item["image"] for item in find_scans(tmp_path).items]
    assert len(images) == 2
    assert str(damaged) in images


def test_series_without_identifier_are_not_joined_blindly(tmp_path: Path) -> None:
    write_slices(tmp_path, HEAD, SeriesInstanceUID=None, SeriesNumber=1)
    for index in range(4):
        write_slice(tmp_path / f"Z{index}", HEAD[:, :, index].T, index, "6", SeriesInstanceUID=None, SeriesNumber=2)
    write_slice(tmp_path / "lone", HEAD[:, :, 0].T, 0, "7", SeriesInstanceUID=None, ImagePositionPatient=None)
    sizes = [1 if isinstance(item["image"], str) else len(item["image"]) for item in find_scans(tmp_path).items]
    assert sorted(sizes) == [1, 4, HEAD.shape[2]]


def test_names_come_from_description_and_number_and_never_from_the_path(tmp_path: Path) -> None:
    for number, patient in enumerate(("Mrs Smith", "Mr Jones")):
        tags = {"SeriesDescription": "T1 mprage/sag", "SeriesNumber": 5, "PatientID": str(number)}
        write_slices(tmp_path / patient, HEAD, series=f"3{number}", SeriesInstanceUID=f"{ROOT}3{number}", **tags)
    names = [item["name"] for item in find_scans(tmp_path).items]
    assert len(set(names)) == 2
    assert all(name.endswith("_T1_mprage_sag_5") and "Smith" not in name for name in names)
    assert [item["name"] for item in find_scans(tmp_path / "Mr Jones").items] == ["T1_mprage_sag_5"]


@pytest.mark.parametrize(
    ("patient", "study", "subject"),
    [
        ("P7", "1.2", "subject:patient P7"),
        ("", "1.2", "subject:study 1.2"),
        ("ANONYMOUS", "1.2", "subject:study 1.2"),
        ("0000", "1.2", "subject:study 1.2"),
        (None, None, "sub-03"),
    ],
)
def test_patient_then_study_then_path_say_whose_scan_it_is(
    patient: str | None, study: str | None, subject: str, tmp_path: Path
) -> None:
    write_slices(tmp_path / "sub-03" / "x", HEAD, PatientID=patient, StudyInstanceUID=study)
    (item,) = find_scans(tmp_path).items
    assert name_subject(item) == subject
    (named,) = find_scans(tmp_path / "sub-03" / "x" / "I000").items
    assert name_subject(named) == subject


def test_series_of_a_patient_are_held_out_together(tmp_path: Path) -> None:
    for series in range(8):
        write_slices(tmp_path / f"{series}", HEAD, series=f"4{series}", PatientID=f"P{series % 4}")
    items = find_scans(tmp_path).items
    for seed in range(5):
        train, held_out = split_by_subject(items, 0.25, seed)
        assert len(held_out) == 2
        assert not {name_subject(item) for item in train} & {name_subject(item) for item in held_out}


# ------------------------------------------------------------------------------------------------------------- values


def stored(path: Path, values: np.ndarray, **tags: Any) -> np.ndarray:
    return read(write_slices(path, values, **tags))


def test_small_values_bright_are_turned_over(tmp_path: Path) -> None:
    turned = stored(tmp_path, (HEAD.max() - HEAD).astype(np.int16), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(turned, HEAD - HEAD.min())


def test_hounsfield_units_stay_what_they_are(tmp_path: Path) -> None:
    ct = np.where(HEAD > 100, HEAD // 10, -1000).astype(np.int16)
    tags = {"Modality": "CT", "PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(stored(tmp_path, ct, **tags), ct)


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [
        ({"RescaleSlope": 2, "RescaleIntercept": -100}, 2, -100),
        ({"RescaleSlope": 2}, 2, 0),
        ({"RescaleIntercept": -100}, 1, -100),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, 1, 0),
        ({"RescaleSlope": None, "RescaleIntercept": 7} | {"RescaleSlope": ""}, 1, 7),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, 1, 0),
    ],
)
def test_slope_and_intercept_even_empty_ones(
    tags: dict[str, Any], slope: float, intercept: float, tmp_path: Path
) -> None:
    np.testing.assert_array_equal(stored(tmp_path, HEAD, **tags), HEAD * slope + intercept)


def test_a_lookup_table_is_applied(tmp_path: Path) -> None:
    table = pydicom.dataset.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [2048, 0, 16], "US"
    table.LUTData = (np.arange(2048, dtype=np.uint16) * 3).tobytes()
    table["LUTData"].VR = "OW"
    table["LUTDescriptor"].VR = "US"
    values = stored(tmp_path, HEAD.astype(np.uint16), ModalityLUTSequence=[table])
    np.testing.assert_array_equal(values, HEAD.astype(int) * 3)


@pytest.mark.parametrize("padding", [-2000, 63536, 32767])
def test_padding_is_background(padding: int, tmp_path: Path) -> None:
    values = HEAD.copy()
    values[:3] = padding if padding < 2**15 else padding - 2**16
    element = pydicom.dataelem.DataElement(0x00280120, "US" if padding >= 0 else "SS", padding)
    read_back = stored(tmp_path, values, PixelPaddingValue=element)
    np.testing.assert_array_equal(read_back[3:], HEAD[3:])
    assert (read_back[:3] == HEAD[3:].min()).all()


def test_a_range_of_padding_is_background(tmp_path: Path) -> None:
    values = HEAD.copy()
    values[:3], values[3:5] = 3000, 3050
    read_back = stored(tmp_path, values, PixelPaddingValue=3000, PixelPaddingRangeLimit=3100)
    assert (read_back[:5] == HEAD[5:].min()).all()


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "stored as rows of a colour table"),
        ({"PhotometricInterpretation": "RGB"}, "stored as colour"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "is a Siemens mosaic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "VFRAME"], "Manufacturer": "UIH"}, "is a UIH mosaic"),
    ],
)
def test_what_is_no_plain_grey_slice_is_refused_by_name(tags: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=reason):
        stored(tmp_path, HEAD, **tags)


# ------------------------------------------------------------------------------------------------------------ geometry


def test_slices_must_lie_on_a_line(tmp_path: Path) -> None:
    for index in range(HEAD.shape[2]):
        place = [19.0 if index == 4 else 0.0, 0.0, 4.0 * index]
        write_slice(tmp_path / f"I{index}", HEAD[:, :, index].T, index, ImagePositionPatient=place)
    with pytest.raises(ScanError, match=r"do not lie on a line: one lies 19\.00 mm beside it"):
        read(tmp_path)


def test_a_tilted_gantry_is_a_line(tmp_path: Path) -> None:
    for index in range(HEAD.shape[2]):
        place = [0.0, 1.5 * index, 4.0 * index]
        write_slice(tmp_path / f"I{index}", HEAD[:, :, index].T, index, ImagePositionPatient=place)
    image = LoadScan()(str(tmp_path))
    np.testing.assert_allclose(np.asarray(image.affine)[:3, 2], [0, -1.5, 4])


def enhance(path: Path, types: tuple[str, ...] = ("M",), **tags: Any) -> Path:
    """Write the head as one enhanced file, its frames shuffled, one volume for each type of frame."""
    Dataset, Sequence = pydicom.dataset.Dataset, pydicom.sequence.Sequence

    def wrap(name: str, **content: Any) -> tuple[str, Any]:
        inner = Dataset()
        for tag, value in content.items():
            setattr(inner, tag, value)
        return name, Sequence([inner])

    frames = [(kind, index) for kind in types for index in range(HEAD.shape[2])]
    order = np.random.default_rng(0).permutation(len(frames))
    groups, pixels = [], []
    for kind, index in (frames[number] for number in order):
        group = Dataset()
        for name, sequence in (
            wrap("PlanePositionSequence", ImagePositionPatient=[0.0, 0.0, 4.0 * index]),
            wrap("MRImageFrameTypeSequence", FrameType=["ORIGINAL", "PRIMARY", kind, "NONE"]),
            wrap("PixelValueTransformationSequence", RescaleSlope=index + 1, RescaleIntercept=0),
        ):
            setattr(group, name, sequence)
        groups.append(group)
        pixels.append(HEAD[:, :, index].T + (500 if kind == "PHASE" else 0))
    shared = Dataset()
    for name, sequence in (
        wrap("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        wrap("PixelMeasuresSequence", PixelSpacing=[2.0, 2.0], SliceThickness=4.0),
    ):
        setattr(shared, name, sequence)
    content = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1", "NumberOfFrames": len(frames), "Rows": HEAD.shape[1]}
    content |= {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": groups}
    content |= dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    return write_slice(path, np.concatenate(pixels), 0, **{**content, **tags})


def test_an_enhanced_file_is_a_volume(tmp_path: Path) -> None:
    image = LoadScan(spatial_dims=3)(enhance(tmp_path / "E.dcm"))
    np.testing.assert_array_equal(image[0].numpy(), HEAD * np.arange(1, HEAD.shape[2] + 1))
    np.testing.assert_allclose(np.asarray(image.affine), np.diag([-2, -2, 4, 1]))
    assert json.loads(image.meta["notes"]) == []


def test_one_type_of_frame_is_taken_and_named(tmp_path: Path) -> None:
    image = LoadScan(spatial_dims=3)(enhance(tmp_path / "E.dcm", ("PHASE", "M")))
    np.testing.assert_array_equal(image[0].numpy(), HEAD * np.arange(1, HEAD.shape[2] + 1))
    (note,) = json.loads(image.meta["notes"])
    assert "M\\NONE was taken, not ORIGINAL\\PRIMARY\\PHASE\\NONE" in note


def test_frames_without_positions_and_several_volumes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="without the position of each; convert it to NIfTI"):
        LoadScan()(enhance(tmp_path / "a.dcm", PerFrameFunctionalGroupsSequence=[]))
    with pytest.raises(ScanError, match=r"several slices at one position \(4D\)"):
        LoadScan()(enhance(tmp_path / "b.dcm", ("M", "M")))


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".dcm", "", ".ima"])
@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_files_without_preamble_are_read(suffix: str, syntax: str, tmp_path: Path) -> None:
    write_slices(tmp_path, HEAD)
    for file in sorted(tmp_path.iterdir()):
        data = pydicom.dcmread(file)
        buffer = pydicom.filebase.DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == "implicit"
        data.decode()
        pydicom.filewriter.write_dataset(buffer, pydicom.dataset.Dataset({e.tag: e for e in data}))
        file.unlink()
        (tmp_path / f"{file.name}{suffix}").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read(tmp_path), HEAD)


def test_packed_files_are_read(tmp_path: Path) -> None:
    write_slices(tmp_path, HEAD)
    for file in sorted(tmp_path.iterdir()):
        (tmp_path / f"{file.name}.dcm.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(read(tmp_path), HEAD)


def test_a_deflated_file_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(ScanError, match=r"is a deflated DICOM; decompress it first"):
        LoadScan()(pydicom.data.get_testdata_file("image_dfl.dcm", download=False))


def test_text_that_begins_like_anything_is_no_dicom(tmp_path: Path) -> None:
    write_slices(tmp_path / "a", HEAD)
    (tmp_path / "a" / "VERSION1").write_bytes(b"\x08\x00 some text that is no data set at all" * 9)
    assert len(find_scans(tmp_path).items) == 1


def test_a_missing_decoder_is_named_with_the_way_to_get_one(tmp_path: Path) -> None:
    from monai_dpmm_ad.data.readers import reading_reason

    error = RuntimeError(
        "Unable to decompress 'JPEG Lossless, Non-Hierarchical' pixel data because all plugins are missing "
        "dependencies:\n\tgdcm - requires gdcm>=3.0.10"
    )
    reason = reading_reason(error)
    assert "JPEG Lossless, Non-Hierarchical" in reason
    assert reason.endswith('pip install "monai-dpmm-ad[dicom]"')
