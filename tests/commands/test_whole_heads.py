# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whole heads where brains were fitted, through the commands: what is written, told, compared and learnt."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad import AnomalyModel
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.compare import compare, observe_healthy
from monai_dpmm_ad.handlers.changes import KINDS

NAMES = ("head", "brain")
TOLD = "its skull was taken away by the frame, "


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def voxels(path: Path) -> NDArray[np.float32]:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


@pytest.fixture(scope="module")
def mapped(brains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mapped")
    scans = [brains / f"{name}.nii.gz" for name in NAMES]
    assert not infer(brains / "bundle", scans, out, report=False, healthy_twin=True).failures
    return out


def test_a_head_is_marked_and_mapped_on_its_own_grid_where_its_brain_is(mapped: Path, brains: Path) -> None:
    head, brain = read(mapped / "scores.csv")
    assert (head["in_range"], TOLD in head["warning"], TOLD in brain["warning"]) == ("False", True, False)
    file = nib.load(brains / "head.nii.gz")
    inside = voxels(brains / "brain.nii.gz") > 0
    for postfix in ("anomaly", "mask", "healthy"):
        image = nib.load(mapped / f"head_{postfix}.nii.gz")
        assert image.shape == file.shape
        np.testing.assert_array_equal(image.affine, file.affine)
    maps = {name: voxels(mapped / f"{name}_anomaly.nii.gz") for name in NAMES}
    both = (maps["head"] > 0) & (maps["brain"] > 0)
    assert 2 * both.sum() / ((maps["head"] > 0).sum() + inside.sum()) > 0.96
    assert np.corrcoef(maps["head"][both], maps["brain"][both])[0, 1] > 0.9
    assert not voxels(mapped / "head_mask.nii.gz")[maps["head"] == 0].any()


def test_its_healthy_twin_has_its_units(mapped: Path, brains: Path) -> None:
    scan, inside = voxels(brains / "head.nii.gz"), voxels(mapped / "head_anomaly.nii.gz") > 0
    healthy = voxels(mapped / "head_healthy.nii.gz")
    assert not healthy[~inside].any()
    assert np.median(healthy[inside]) == pytest.approx(np.median(scan[inside]), rel=0.05)
    both = inside & (voxels(mapped / "brain_anomaly.nii.gz") > 0)
    assert np.corrcoef(healthy[both], voxels(mapped / "brain_healthy.nii.gz")[both])[0, 1] > 0.95


def test_an_array_is_mapped_as_its_file(mapped: Path, brains: Path) -> None:
    scan = nib.load(brains / "head.nii.gz")
    result = AnomalyModel.load(brains / "bundle").predict(np.asarray(scan.dataobj), affine=scan.affine)
    np.testing.assert_array_equal(result.map, voxels(mapped / "head_anomaly.nii.gz"))
    assert (result.in_range, TOLD in str(result.row.warning)) == (False, True)


def test_a_visit_with_a_skull_shows_no_change(brains: Path, tmp_path: Path) -> None:
    before, after = ([brains / f"{name}.nii.gz"] for name in NAMES)
    outcome = compare(brains / "bundle", tmp_path, before, after)
    assert not outcome.failures
    (pair,) = outcome.pairs
    assert [pair[kind] for kind in KINDS] == [0] * len(KINDS)
    assert pair["quality"] > 0.9
    assert (pair["in_range"], "First visit: This scan is unlike" in pair["warning"], TOLD in pair["warning"]) == (
        False,
        True,
        True,
    )
    changed = voxels(tmp_path / "head_change.nii.gz") != 0
    assert changed.any()
    assert not changed[~ndimage.binary_dilation(voxels(brains / "brain.nii.gz") > 0)].any()


@pytest.mark.slow
def test_heads_among_healthy_pairs_are_named(brains: Path, caplog: pytest.LogCaptureFixture) -> None:
    item = {"name": "head", "image": str(brains / "head.nii.gz")}
    observe_healthy(AnomalyModel.load(brains / "bundle"), [item])
    assert [message.partition(",")[0] for message in caplog.messages] == ["head: whole heads where brains were fitted"]


@pytest.mark.slow
def test_heads_that_move_a_site_are_named(brains: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = [brains / f"{name}.nii.gz" for name in NAMES]
    fit(scans, tmp_path / "north", update=brains / "bundle", site="north")
    assert [message.partition(",")[0] for message in caplog.messages] == ["head: whole heads where brains were fitted"]
