# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""DICOM from end to end: series in, maps and masks out, and back to the same voxels of the same images."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.dicom_series import write_series

from monai_dpmm_ad.commands import Outcome, evaluate, infer

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

# Columns run to the left and back, slices up and forward: no axis of the scanner is an axis of the scan.
TURN = nib.eulerangles.euler2mat(0.2, -0.3, 0.15)


def make_affine(turn: np.ndarray, spacing: tuple[float, float, float] = (4.0, 4.0, 4.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(spacing)
    affine[:3, 3] = [60.0, 75.0, -40.0]
    return affine


@pytest.fixture(scope="module")
def head(cohort: Path) -> np.ndarray:
    """A phantom with lesions as (columns, rows, slices), whole numbers, seen from below as scanners see it."""
    image = nib.as_closest_canonical(nib.load(cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz"))
    return np.round(np.asarray(image.dataobj)[::-1, ::-1] * 4).astype(np.float32)


@pytest.fixture(scope="module")
def source(head: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Path]]]:
    """One folder: two MR of one visit, upright and oblique, a CT with a slope, and a series that lacks a slice."""
    folder = tmp_path_factory.mktemp("archive")
    oblique, upright = make_affine(TURN, (3.0, 4.0, 5.0)), make_affine(np.eye(3))
    visit = {"StudyInstanceUID": "1.2.826.0.1.1", "FrameOfReferenceUID": "1.2.826.0.1.2", "PatientID": "P1"}
    files = {
        "upright": write_series(folder, head, upright, "MR", seed=1, prefix="A", **visit),
        "oblique": write_series(folder, head, oblique, "MR", seed=2, prefix="B", **visit),
        "ct": write_series(folder, np.where(head > 0, head / 4, -1000.0), upright, "CT", seed=3, prefix="C"),
    }
    write_series(folder, head, upright, "MR", seed=4, prefix="D", skip=(6,))
    (folder / "notes.txt").write_text("from the archive")
    return folder, files


@pytest.fixture(scope="module")
def outcome(
    bundle: Path, source: tuple[Path, dict[str, list[Path]]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("out")
    return infer(bundle, [source[0]], out, report=False, dicom=True, false_positive_rate=0.2), out


def name_of(outcome: Outcome, files: list[Path]) -> str:
    """Output name of a series: its scan is listed by one of its files."""
    names = {str(file) for file in files}
    return next(row.name for row in outcome.scans if row.image in names)


def test_every_series_of_a_folder_is_a_scan_and_a_gap_is_named(outcome: tuple[Outcome, Path]) -> None:
    result, out = outcome
    assert len(result.scans) == 3
    assert len(result.failures) == 1
    assert "a slice may be missing" in result.failures[0].reason
    with open(out / "failures.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_the_nifti_map_lies_where_the_slices_lie(
    outcome: tuple[Outcome, Path], source: tuple[Path, dict[str, list[Path]]], head: np.ndarray
) -> None:
    result, out = outcome
    for kind, affine in (("upright", make_affine(np.eye(3))), ("oblique", make_affine(TURN, (3.0, 4.0, 5.0)))):
        image = nib.load(out / f"{name_of(result, source[1][kind])}_anomaly.nii.gz")
        assert image.shape == head.shape
        np.testing.assert_allclose(image.affine, affine, atol=1e-3)
        values = np.asarray(image.dataobj)
        assert (values > 0).any()
        assert not values[head == 0].any()


def test_order_and_turn_change_nothing_of_the_map(
    bundle: Path,
    outcome: tuple[Outcome, Path],
    source: tuple[Path, dict[str, list[Path]]],
    head: np.ndarray,
    tmp_path: Path,
) -> None:
    nib.save(nib.Nifti1Image(head, make_affine(np.eye(3))), tmp_path / "plain.nii.gz")
    infer(bundle, [tmp_path / "plain.nii.gz"], tmp_path / "out", report=False)
    expected = np.asarray(nib.load(tmp_path / "out" / "plain_anomaly.nii.gz").dataobj)
    found = nib.load(outcome[1] / f"{name_of(outcome[0], source[1]['upright'])}_anomaly.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)


def test_slices_with_slopes_of_their_own_are_read_as_their_values(
    bundle: Path, head: np.ndarray, tmp_path: Path
) -> None:
    affine = make_affine(np.eye(3))
    nib.save(nib.Nifti1Image(head, affine), tmp_path / "plain.nii.gz")
    files = write_series(tmp_path / "series", head, affine, "MR", slopes=(0.5, 1.0, 0.25))
    assert {float(pydicom.dcmread(file).get("RescaleSlope", 1)) for file in files} == {0.5, 1.0, 0.25}
    result = infer(bundle, [tmp_path / "plain.nii.gz", tmp_path / "series"], tmp_path / "out", report=False)
    maps = [np.asarray(nib.load(tmp_path / "out" / f"{row.name}_anomaly.nii.gz").dataobj) for row in result.scans]
    assert maps[0].any()
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("kind", ["upright", "oblique", "ct"])
@pytest.mark.parametrize("postfix", ["mask", "anomaly"])
def test_references_and_geometry_are_the_series_own(
    outcome: tuple[Outcome, Path], source: tuple[Path, dict[str, list[Path]]], kind: str, postfix: str
) -> None:
    result, out = outcome
    name, files = name_of(result, source[1][kind]), source[1][kind]
    stored = pydicom.dcmread(out / f"{name}_{postfix}.dcm")
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate"):
        assert stored[tag].value == slices[0][tag].value
    [series] = stored.ReferencedSeriesSequence  # of the four in the folder, two of them of one visit
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referred <= {item.SOPInstanceUID for item in slices}
    assert stored.Modality == {"mask": "SEG", "anomaly": "OT"}[postfix]
    others = {pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID for path in out.glob("*.dcm")}
    assert len(others) == 6  # every output is a series of its own
    # Another program's reader puts the voxels where the NIfTI file has them.
    image = nib.load(out / f"{name}_{postfix}.nii.gz")
    if postfix == "mask":
        volume = highdicom.seg.segread(out / f"{name}_mask.dcm").get_volume(combine_segments=True)
    else:
        volume = highdicom.imread(out / f"{name}_anomaly.dcm").get_volume(
            apply_real_world_transform=True, dtype=np.float32
        )
    found = nib.Nifti1Image(volume.array.astype(np.float32), np.diag([-1, -1, 1, 1]) @ volume.affine)
    places = np.argwhere(np.asarray(image.dataobj) > 0)
    turned = np.linalg.inv(found.affine) @ image.affine
    indices = nib.affines.apply_affine(turned, places)
    np.testing.assert_allclose(indices, indices.round(), atol=2e-3)
    there = tuple(indices.round().astype(int).T)
    np.testing.assert_array_equal(volume.array[there], np.asarray(image.dataobj)[tuple(places.T)])
    assert (volume.array > 0).sum() == len(places)


@pytest.mark.parametrize("kind", ["upright", "oblique", "ct"])
def test_the_segmentation_is_the_mask_on_the_right_slices(
    outcome: tuple[Outcome, Path], source: tuple[Path, dict[str, list[Path]]], kind: str
) -> None:
    result, out = outcome
    name, files = name_of(result, source[1][kind]), source[1][kind]
    mask = np.asarray(nib.load(out / f"{name}_mask.nii.gz").dataobj)
    assert mask.any()
    segmentation = highdicom.seg.segread(out / f"{name}_mask.dcm")
    slices = [pydicom.dcmread(file) for file in files]
    frames = segmentation.get_pixels_by_source_instance(
        [item.SOPInstanceUID for item in slices], ignore_spatial_locations=True
    )
    np.testing.assert_array_equal(frames[..., 0].transpose(2, 1, 0), mask)
    assert (segmentation.StudyInstanceUID, segmentation.FrameOfReferenceUID) == (
        slices[0].StudyInstanceUID,
        slices[0].FrameOfReferenceUID,
    )
    assert segmentation.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert segmentation.PatientID == slices[0].PatientID
    # Independently of the references: each frame's own position is that of a slice, and holds that slice's mask.
    place = {tuple(np.round(np.array(item.ImagePositionPatient, float), 3)): k for k, item in enumerate(slices)}
    raw = pydicom.dcmread(out / f"{name}_mask.dcm")
    pixels = raw.pixel_array.reshape(-1, raw.Rows, raw.Columns)
    seen = set()
    for frame, group in zip(pixels, raw.PerFrameFunctionalGroupsSequence, strict=True):
        index = place[tuple(np.round(np.array(group.PlanePositionSequence[0].ImagePositionPatient, float), 3))]
        np.testing.assert_array_equal(frame.T, mask[:, :, index])
        origin = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert origin.ReferencedSOPInstanceUID == slices[index].SOPInstanceUID
        assert origin.ReferencedSOPClassUID == slices[index].SOPClassUID
        seen.add(index)
    assert seen == set(np.flatnonzero(mask.any((0, 1))))
    plane = raw.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(np.array(plane, float), np.array(slices[0].ImageOrientationPatient, float))


@pytest.mark.parametrize("kind", ["oblique", "ct"])
def test_the_parametric_map_holds_the_maps_own_numbers(
    outcome: tuple[Outcome, Path], source: tuple[Path, dict[str, list[Path]]], kind: str
) -> None:
    result, out = outcome
    name, files = name_of(result, source[1][kind]), source[1][kind]
    values = np.asarray(nib.load(out / f"{name}_anomaly.nii.gz").dataobj)
    stored = pydicom.dcmread(out / f"{name}_anomaly.dcm")
    frames = np.frombuffer(stored.FloatPixelData, "<f4").reshape(-1, stored.Rows, stored.Columns)
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]
    assert len(frames) == len(files)
    for frame, group in zip(frames, stored.PerFrameFunctionalGroupsSequence, strict=True):
        origin = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_array_equal(frame.T, values[:, :, uids.index(origin)])
    mapping = stored.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)  # not the CT's 0.5 and -1024
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped <= values.min()
    assert mapping.DoubleFloatRealWorldValueLastValueMapped >= values.max()
    assert "RescaleSlope" not in stored


def test_evaluation_of_series_with_masks(bundle: Path, head: np.ndarray, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_series(tmp_path / f"scan{seed}", head, make_affine(TURN), "MR", seed=seed)
        truth = (head > np.quantile(head[head > 0], 0.99)).astype(np.uint8)
        nib.save(nib.Nifti1Image(truth, make_affine(TURN)), tmp_path / f"truth{seed}.nii.gz")
    items = [{"image": f"scan{seed}", "label": f"truth{seed}.nii.gz"} for seed in (1, 2)]
    (tmp_path / "list.json").write_text(json.dumps({"test": items}))
    result = evaluate(bundle, [tmp_path / "list.json"], tmp_path / "out", report=False, dicom=True)
    assert not result.failures
    assert 0 <= result.metrics["pixel_auroc"] <= 1
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 4


def test_an_empty_mask_and_other_formats(bundle: Path, head: np.ndarray, cohort: Path, tmp_path: Path) -> None:
    from monai_dpmm_ad.transforms.save_dicom import make_segmentation, read_sources

    files = write_series(tmp_path / "scan", head, make_affine(np.eye(3)))
    empty = make_segmentation(np.zeros(head.shape, np.uint8), read_sources(files))
    assert not empty.pixel_array.any()
    assert len(empty.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(files)
    nifti = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    assert not infer(bundle, [nifti], tmp_path / "out", report=False, dicom=True).failures
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_the_same_result_has_the_same_identifiers(head: np.ndarray, tmp_path: Path) -> None:
    from monai_dpmm_ad.transforms.save_dicom import make_segmentation, read_sources

    sources = read_sources(write_series(tmp_path / "scan", head, make_affine(np.eye(3))))
    first, again, other = (make_segmentation(head > level, sources) for level in (200, 200, 300))
    assert first.SOPInstanceUID == again.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID
    with pytest.raises(ValueError, match="sources' shape"):
        make_segmentation(head[:-1], sources)


def test_outputs_of_a_scan_outside_of_what_was_fitted_say_so(bundle: Path, head: np.ndarray, tmp_path: Path) -> None:
    for name, size in (("usual", 4.0), ("huge", 12.0)):
        write_series(tmp_path / name, head, make_affine(np.eye(3), (size, size, size)), seed=1, prefix=name)
        (row,) = infer(bundle, [tmp_path / name], tmp_path / f"out-{name}", report=False, dicom=True).scans
        assert row.in_range is (name == "usual")
    told = {
        (name, kind): pydicom.dcmread(next((tmp_path / f"out-{name}").glob(f"*_{kind}.dcm")))
        for name in ("usual", "huge")
        for kind in ("mask", "anomaly")
    }
    for kind in ("mask", "anomaly"):
        usual, huge = told["usual", kind], told["huge", kind]
        assert "Research only" in usual.ContentDescription
        assert "OUTSIDE" not in usual.SeriesDescription
        assert huge.SeriesDescription.endswith("OUTSIDE OF WHAT WAS FITTED")
        assert "do not rely on it" in huge.ContentDescription
        assert max(len(one) for one in (huge.SeriesDescription, huge.ContentDescription)) <= 64


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"FrameOfReferenceUID": None}, "lacks FrameOfReferenceUID"),
        ({"SOPInstanceUID": "1.2.3.4"}, "shares its SOPInstanceUID"),
    ],
)
def test_files_that_nothing_can_refer_to_are_named(
    tags: dict[str, Any], reason: str, bundle: Path, head: np.ndarray, tmp_path: Path
) -> None:
    write_series(tmp_path / "scan", head, make_affine(np.eye(3)), **tags)
    plain = infer(bundle, [tmp_path / "scan"], tmp_path / "plain", report=False)
    assert not plain.failures  # only what refers to the images needs it
    result = infer(bundle, [tmp_path / "scan"], tmp_path / "out", report=False, dicom=True)
    assert not result.failures  # nor does what cannot be written take away what can
    assert "no DICOM mask was written" in (result.scans[0].warning or "").replace("No DICOM", "no DICOM")
    assert reason in (result.scans[0].warning or "")
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {
        path.name for path in (tmp_path / "plain").glob("*.nii.gz")
    }
    assert not list((tmp_path / "out").glob("*.dcm"))
    assert not list((tmp_path / "out").glob(".partial*"))


MR_SAMPLES = [
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_expb.dcm",
]
SAMPLES = ["CT_small.dcm", "examples_overlay.dcm", *MR_SAMPLES]


@pytest.mark.parametrize("sample", SAMPLES)
def test_pydicoms_own_images_are_scans(sample: str, bundle: Path, tmp_path: Path) -> None:
    path = Path(pydicom.data.get_testdata_file(sample, download=False))
    result = infer(bundle, [path], tmp_path, report=False, dicom=True)
    assert not result.failures
    image = pydicom.dcmread(path)
    values = np.asarray(nib.load(tmp_path / f"{result.scans[0].name}_anomaly.nii.gz").dataobj)
    assert values.shape == (image.Columns, image.Rows)
    segmentation = pydicom.dcmread(tmp_path / f"{result.scans[0].name}_mask.dcm")
    referenced = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert referenced.ReferencedSOPInstanceUID == image.SOPInstanceUID


def test_the_same_image_in_another_encoding_has_the_same_map(bundle: Path, tmp_path: Path) -> None:
    paths = [Path(pydicom.data.get_testdata_file(sample, download=False)) for sample in MR_SAMPLES]
    result = infer(bundle, paths, tmp_path, report=False)
    maps = [np.asarray(nib.load(tmp_path / f"{row.name}_anomaly.nii.gz").dataobj) for row in result.scans]
    assert len(maps) == len(MR_SAMPLES)
    assert maps[0].any()
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_each_of_pydicoms_files_is_a_scan_or_has_a_reason(bundle: Path, tmp_path: Path) -> None:
    folder = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False)).parent
    files = sorted(folder.glob("*.dcm"))
    assert len(files) > 50
    result = infer(bundle, files, tmp_path, report=False, dicom=True)
    assert len(result.scans) + len(result.failures) == len(files)
    reasons = {Path(failure.path).name: failure.reason for failure in result.failures}
    assert all(reasons.values())
    for name, reason in {
        "SC_rgb_rle.dcm": "secondary capture",
        "examples_ybr_color.dcm": "colour image",
        "examples_palette.dcm": "colour table",
        "rtdose_1frame.dcm": "is a radiotherapy object",
        "image_dfl.dcm": "secondary capture",
        "MR_truncated.dcm": "is truncated or damaged: it ends before its last voxel",
        "rtplan.dcm": "is a radiotherapy object",
        "waveform_ecg.dcm": "is a waveform",
    }.items():
        assert reason in reasons[name]
    assert {Path(row.image).name for row in result.scans} >= set(SAMPLES)
    assert not list(tmp_path.glob(".partial*"))


def test_pydicoms_own_archive_is_searched_and_nothing_stops_it(bundle: Path, tmp_path: Path) -> None:
    archive = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False)).parent / "dicomdirtests"
    result = infer(bundle, [archive], tmp_path, report=False)
    assert result.scans or result.failures
    assert all(failure.reason for failure in result.failures)
    assert len(list(tmp_path.glob("*_anomaly.nii.gz"))) == len(result.scans)
