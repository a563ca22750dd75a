# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Inputs that users really met, written by scripts that lie beside the repository; each gives what its head expects."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data import find_scans, split_scans
from monai_dpmm_ad.data.subjects import name_subject
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import LoadScan, compute_foreground

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = [
    pytest.mark.skipif(not CASES.is_dir(), reason=f"the case scripts are not at {CASES}"),
    pytest.mark.filterwarnings("default"),
]
pytest.importorskip("pydicom")

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Run a case script once and return the folder that it wrote."""
    made: dict[str, Path] = {}

    def run(name: str, *arguments: str | Path) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            command = [sys.executable, CASES / f"{name}.py", made[name], *arguments]
            subprocess.run([str(part) for part in command], check=True, capture_output=True, cwd=CASES)
        return made[name]

    return run


def load_only(folder: Path) -> np.ndarray:
    """The one scan below a folder."""
    (item,) = find_scans(folder).items
    return LoadScan(spatial_dims=3)(item["image"])[0].numpy()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out + err


def test_each_script_has_a_test_of_its_name() -> None:
    scripts = {path.stem for path in CASES.iterdir() if path.suffix in (".py", ".sh")} - {"_make"}
    tests = {name.removeprefix("test_") for name in globals()}
    assert scripts - tests == {"dicom_anonymised_dates", "dicom_orientation_jitter"}  # one test has both


def test_ct_head_holder(make: Make) -> None:
    image = LoadScan()(make("ct_head_holder") / "ct.nii.gz")
    mask = compute_foreground(image.as_tensor())[0].numpy()
    y, x = np.mgrid[-1 : 1 : mask.shape[1] * 1j, -1 : 1 : mask.shape[0] * 1j]
    head = (np.hypot(x / 0.5, (y + 0.05) / 0.6) < 1).T[..., None] & np.ones(mask.shape, bool)
    assert (mask & head).sum() > 0.99 * head.sum()
    assert (mask & ~head).sum() < 0.01 * head.sum()


@pytest.mark.parametrize("case", ["dicom_anonymised_dates", "dicom_orientation_jitter"])
def test_dicom_outputs_of_odd_headers(case: str, make: Make, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    outcome = infer(bundle, [make(case)], tmp_path, report=False, dicom=True)
    assert not outcome.failures
    (row,) = outcome.scans
    assert not row.warning or "DICOM" not in row.warning
    assert {path.name for path in tmp_path.glob("*.dcm")} == {f"{row.name}_anomaly.dcm", f"{row.name}_mask.dcm"}


def test_dicom_jpeg_lossless(make: Make) -> None:
    if not (Path(sys.executable).parent / "gdcmconv").exists():
        pytest.skip("gdcmconv, which writes the compressed files, is not installed")
    folder = make("dicom_jpeg_lossless")
    raw = load_only(folder / "raw")
    for kind in ("jpeg", "jpegls", "rle", "j2k"):
        np.testing.assert_array_equal(load_only(folder / kind), raw)


def test_dicom_monochrome1(make: Make) -> None:
    mono2, mono1 = (load_only(make("dicom_monochrome1") / name) for name in ("mono2", "mono1"))
    np.testing.assert_allclose(mono1, mono2, atol=1)  # the script's whole numbers are cut off after turning over


@pytest.mark.parametrize("kind", ["one", "two_moved", "two_same"])
def test_dicom_mosaic(kind: str, make: Make) -> None:
    with pytest.raises(ScanError, match="is a Siemens mosaic, a volume whose slices lie side by side; convert it"):
        load_only(make("dicom_mosaic") / kind)


@pytest.mark.parametrize("kind", ["suffix", "bare"])
def test_dicom_no_preamble(kind: str, make: Make) -> None:
    assert load_only(make("dicom_no_preamble") / kind).shape == (64, 72, 24)


def test_dicom_palette(make: Make) -> None:
    with pytest.raises(ScanError, match="has a colour image"):
        load_only(make("dicom_palette"))


def test_dicom_patient_split(make: Make) -> None:
    folder = make("dicom_patient_split")
    for seed in range(4):
        split = split_scans(str(folder), None, 0.25, seed)
        fitted, held_out = ({name_subject(item) for item in items} for items in (split.train, split.held_out))
        assert (len(split.train), len(split.held_out), len(held_out)) == (6, 2, 1)
        assert not fitted & held_out
        assert split.found.summary() == "took 8 scans, left out 4: 4 localisers"


@pytest.mark.parametrize("kind", ["halves", "singles"])
def test_dicom_scattered_series(kind: str, make: Make) -> None:
    assert load_only(make("dicom_scattered_series") / kind).shape == (64, 72, 24)


def test_drift_single_scan(make: Make, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = make("drift_single_scan") / "ct.nii.gz"
    status, text = run(capsys, "infer", "--bundle", bundle, "--images", scan, "--out", tmp_path)
    assert status == 0
    assert "warning: ct: This scan is unlike those that were fitted, do not rely on it" in text
    with open(tmp_path / "scores.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert "its modality is CT" in row["warning"]
    assert "This scan is unlike those" in (tmp_path / "report.html").read_text()


def test_folder_bids_mixed(make: Make, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make("folder_bids_mixed")
    arguments = ["fit", "--images", folder, "--out", tmp_path / "bundle", "--embedder", tiny_vit]
    status, text = run(capsys, *arguments)
    assert status == 1
    assert "holds 2 kinds of image: FLAIR (3), T1w (3); choose one with --suffix" in text
    found = find_scans(folder, suffix="FLAIR")
    assert len(found.items) == 3
    assert found.summary() == "took 3 scans, left out 12: 6 segmentations, 3 other suffixes, 3 pictures among volumes"
    assert [item["image"] for item in find_scans(folder, pattern="*_FLAIR*").items] == [
        item["image"] for item in found.items
    ]


def test_foreground_few_sagittal_slices(make: Make) -> None:
    folder = make("foreground_few_sagittal_slices")
    for number in (3, 5, 6, 9):
        plain = LoadScan()(folder / f"sag{number}.nii.gz").as_tensor()
        speck = LoadScan()(folder / f"sag{number}_speck.nii.gz").as_tensor()
        mask = compute_foreground(plain)
        assert torch.equal(mask, compute_foreground(speck))
        assert int((mask & (plain > 100)).sum()) > 0.98 * int((plain > 100).sum())


def test_nifti_anisotropic_in_plane(make: Make, cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    upright = nib.as_closest_canonical(nib.load(scan))  # the script thins out the first dimension: sagittal slices
    nib.save(upright, tmp_path / "upright.nii.gz")
    folder = make("nifti_anisotropic_in_plane", tmp_path / "upright.nii.gz")
    rows = {row.name: row for row in infer(bundle, [folder], tmp_path / "out", report=False).scans}
    assert rows["every1"].flagged is not None
    # Random features and voxels of 4 mm: what is tested is that the pixels' shape is seen, not how well.
    assert "its voxels measure" in (rows["every4"].warning or "")
    assert "its voxels measure" not in (rows["every1"].warning or "")


def test_nifti_nan_outside(make: Make, bundle: Path, tmp_path: Path) -> None:
    scan = make("nifti_nan_outside") / "spm.nii.gz"
    outcome = infer(bundle, [scan], tmp_path, report=False)
    assert not outcome.failures
    missing = np.isnan(np.asarray(nib.load(scan).dataobj))
    values = np.asarray(nib.load(tmp_path / "spm_anomaly.nii.gz").dataobj)
    assert values.any()
    assert not values[missing].any()


def test_nifti_odd_headers(make: Make) -> None:
    folder = make("nifti_odd_headers")
    plain = LoadScan()(folder / "plain.nii.gz")
    scaled = {"i8", "f64_big", "f64_small", "slope_half", "inter_nan"}
    noted = {"meter": "metres", "micron": "micrometres", "no_codes": "orientation is undefined"}
    noted |= {"quatern_long": "orientation is undefined", "pixdim_zero_nocode": "voxel sizes are undefined"}
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0]
        if name in ("vector3", "bool_like", "slope_negative"):  # several numbers a voxel; two values; turned over
            continue
        image = LoadScan()(path)
        assert image.shape == plain.shape
        assert noted.get(name, "") in image.meta["notes"]
        assert (name in noted) == (image.meta["notes"] != "[]")
        correlation = np.corrcoef(image.as_tensor().ravel(), plain.as_tensor().ravel())[0, 1]
        assert correlation > 0.999, name
        if name not in scaled:
            assert torch.equal(image.as_tensor(), plain.as_tensor()), name
    with pytest.raises(ScanError, match="is 5D with shape"):
        LoadScan()(folder / "vector3.nii.gz")
    metre, micron = (np.asarray(LoadScan()(folder / f"{name}.nii.gz").affine) for name in ("meter", "micron"))
    np.testing.assert_allclose(metre[:3], 1000 * np.asarray(plain.affine)[:3])
    np.testing.assert_allclose(micron[:3], np.asarray(plain.affine)[:3] / 1000)


def test_own_outputs_in_input(
    make: Make, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cohort: Path
) -> None:
    pytest.importorskip("highdicom")
    folder = tmp_path / "scan"
    shutil.copytree(make("dicom_orientation_jitter"), folder)
    results = folder / "maps"
    tables = []
    for _ in range(2):
        status, _ = run(
            capsys, "infer", "--bundle", bundle, "--images", folder, "--out", results, "--dicom", "--no-percentile"
        )
        assert status == 0
        assert not (results / "failures.csv").exists()
        tables.append((results / "scores.csv").read_text())
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 2


def test_patients_are_fitted_and_held_out_whole(make: Make, tiny_vit: Path, tmp_path: Path) -> None:
    outcome = fit([make("dicom_patient_split")], tmp_path / "bundle", embedder_name=str(tiny_vit), **FAST)
    assert not outcome.failures
    assert outcome.found == "took 8 scans, left out 4: 4 localisers; 6 are fitted"
    with open(tmp_path / "bundle" / "left_out.csv", newline="") as file:
        assert {row["kind"] for row in csv.DictReader(file)} == {"localisers"}
