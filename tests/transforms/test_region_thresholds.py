# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Thresholds for each region of an atlas, from ``fit --regions`` to the mask; percentile maps."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import read_settings
from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.commands.cli import main

RATE = 0.3  # what two held-out scans can promise nothing for


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label 1 left of x = 0, 2 right of it, in the space of the cohort."""
    affine = nib.affines.from_matvec(np.diag([4.0, 4.0, 4.0]), [-120, -150, -100])
    labels = np.ones((60, 60, 60), np.uint8)
    labels[30:] = 2
    path = tmp_path_factory.mktemp("atlas") / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


@pytest.fixture(scope="module")
def regional(cohort: Path, atlas: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regional") / "bundle"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in FAST.items() if name != "patches_per_batch"]
    status = main(
        [
            "fit",
            "--images",
            str(cohort),
            "--out",
            str(folder),
            "--embedder",
            str(tiny_vit),
            "--regions",
            str(atlas),
            *options,
        ]
    )
    assert status == 0
    return folder


def load_calibration(bundle: Path, num_regions: int) -> Calibration:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    calibration = Calibration(num_regions)
    calibration.load_state_dict({k.removeprefix("calibration."): v for k, v in state.items() if k.startswith("calib")})
    return calibration


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_each_region_has_its_own_threshold_in_the_mask(
    regional: Path, cohort: Path, atlas: Path, tmp_path: Path
) -> None:
    assert read_settings(regional)["num_regions"] == 2
    calibration = load_calibration(regional, 2)
    assert calibration.region_scans.tolist() == [2, 2]
    thresholds = [calibration.threshold(RATE, region) for region in (1, 2)]
    assert thresholds[0] != thresholds[1]
    source = cohort.parent / "imagesTs" / "test_abnormal_001.nii.gz"
    outcome = infer(regional, [source], tmp_path, report=False, regions=str(atlas), false_positive_rate=RATE)
    assert not outcome.failures
    anomaly, mask = (read(tmp_path / f"test_abnormal_001_{kind}.nii.gz") for kind in ("anomaly", "mask"))
    affine = nib.load(source).affine
    x = np.stack(np.meshgrid(*map(np.arange, anomaly.shape), indexing="ij"), -1) @ affine[0, :3] + affine[0, 3]
    for region, threshold in zip((x < -6, x > 2), thresholds, strict=True):
        assert np.array_equal(mask[region] > 0, anomaly[region] > threshold)
    whole = infer(regional, [source], tmp_path / "whole", report=False, false_positive_rate=RATE)
    assert not whole.failures
    plain = read(tmp_path / "whole" / "test_abnormal_001_mask.nii.gz")
    assert np.array_equal(plain > 0, anomaly > calibration.threshold(RATE)), "without an atlas: one threshold"
    assert not np.array_equal(plain, mask)


def test_a_datalist_may_bring_regions_of_its_own(regional: Path, cohort: Path, atlas: Path, tmp_path: Path) -> None:
    source = cohort.parent / "imagesTs" / "test_abnormal_001.nii.gz"
    (tmp_path / "list.json").write_text(json.dumps({"test": [{"image": str(source), "regions": str(atlas)}]}))
    infer(regional, [tmp_path / "list.json"], tmp_path / "own", report=False, false_positive_rate=RATE)
    infer(regional, [source], tmp_path / "given", report=False, regions=str(atlas), false_positive_rate=RATE)
    name = "test_abnormal_001_mask.nii.gz"
    assert np.array_equal(read(tmp_path / "own" / name), read(tmp_path / "given" / name))


def test_an_atlas_for_a_bundle_without_regions_names_what_is_flagged(
    bundle: Path, cohort: Path, atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["infer", "--bundle", bundle, "--images", cohort, "--out", tmp_path, "--regions", atlas]
    arguments += ["--no-report", "--rate", 0.3]
    assert main([str(argument) for argument in arguments]) == 0
    assert "need a bundle fitted with --regions" in capsys.readouterr().err
    named = [region for regions in json.loads((tmp_path / "regions.json").read_text()).values() for region in regions]
    assert {region["anatomy"] for region in named} <= {"1", "2", None}
    assert any(region["anatomy"] for region in named)


def test_percentile_maps_are_written_unless_they_are_not_wanted(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    source = cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz"
    arguments = ["infer", "--bundle", str(bundle), "--images", str(source), "--no-report", "--out"]
    assert main([*arguments, str(tmp_path)]) == 0
    anomaly, percentile = (read(tmp_path / f"test_abnormal_000_{kind}.nii.gz") for kind in ("anomaly", "percentile"))
    expected = load_calibration(bundle, 0).percentile(torch.from_numpy(anomaly))
    np.testing.assert_allclose(percentile, expected, atol=1e-3)
    assert 0 <= percentile.min() <= percentile.max() <= 100
    assert np.array_equal(nib.load(tmp_path / "test_abnormal_000_percentile.nii.gz").affine, nib.load(source).affine)
    assert main([*arguments, str(tmp_path / "without"), "--no-percentile"]) == 0
    assert not list((tmp_path / "without").glob("*percentile*"))
