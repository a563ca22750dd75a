# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A fit learns places from what it keeps of its scans."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST
from PIL import Image

from monai_dpmm_ad.bundle import load_workflow, read_settings
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.engines import place
from monai_dpmm_ad.engines.thumbnails import FittedScan, FittedScans
from monai_dpmm_ad.errors import EmbeddingStoreError
from monai_dpmm_ad.normative import Frame, Lattice, NormativeMap, resample
from monai_dpmm_ad.ops.slices import AXES, extract_slices

SHAPE = (8, 10, 6)
AFFINE = np.array([[0, -2.0, 0, 30], [-1.5, 0, 0, 20], [0, 0, -3.0, 10], [0, 0, 0, 1]])


def test_a_patch_lies_where_its_voxels_are() -> None:
    """Along each axis, the coordinates of every pixel against those of the voxel that it is."""
    index = torch.from_numpy(np.indices(SHAPE).astype(np.float64))
    for number, axis in enumerate(AXES):
        voxels = torch.stack([extract_slices(part[None], axis)[:, 0] for part in index], -1)  # (n, rows, columns, 3)
        count, height, width, _ = voxels.shape
        n, row, column = (part.ravel() for part in np.indices((count, height, width)))
        location = np.stack([(row + 0.5) / height, (column + 0.5) / width, (n + 0.5) / count], -1)
        axes = np.full(count, number)
        scan = FittedScan(np.zeros((2, 2, 2), np.float32), np.eye(4), np.array(SHAPE), AFFINE, axes)
        expected = voxels.reshape(-1, 3).numpy() @ AFFINE[:3, :3].T + AFFINE[:3, 3]
        np.testing.assert_allclose(scan.locate_rows(location.astype(np.float32), n), expected, atol=1e-4)


def test_frames_are_read_as_they_were_written(tmp_path: Path) -> None:
    scans = FittedScans(tmp_path, ScanDataset([], lambda item: item))
    field = np.random.default_rng(0).normal(size=(3, 4, 5, 3)).astype(np.float32)
    deformed = Frame("deformed", AFFINE, 0.9, field, Lattice((3, 4, 5), 2.0, (1.0, 2.0, 3.0)))
    for name, frame in (("a", deformed), ("b", Frame("box", AFFINE))):
        assert scans.read_frame(name, "key") is None
        scans.save_frame(name, "key", frame)
        again = scans.read_frame(name, "key")
        assert again is not None
        assert again.to_dict() == frame.to_dict()
        points = np.random.default_rng(1).normal(size=(7, 3))
        np.testing.assert_array_equal(again.locate(points), frame.locate(points))
    assert scans.read_frame("a", "another reference") is None
    file = next((tmp_path / "frames").glob("a-*"))
    flipped = bytearray(file.read_bytes())
    flipped[-3] ^= 1
    for damaged in (b"hello", bytes(flipped)):
        file.write_bytes(damaged)
        with pytest.raises(EmbeddingStoreError, match="damaged"):
            scans.read_frame("a", "key")


def test_the_bundle_has_seen_every_fitted_scan_and_says_where_scans_lie(bundle: Path, cohort: Path) -> None:
    with load_workflow(bundle, ["inference"], "inference") as workflow:
        normative, regions = workflow.network.normative, workflow.network.regions
    assert normative is not None
    assert normative.fitted
    assert int(normative.scores.num_scans) == int(normative.intensity.num_scans) == 3
    assert int(regions.num_scans) == 2
    assert read_settings(bundle)["frame"] == normative.frame


def test_a_store_without_small_copies_gives_the_same_bundle(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    """As one that an older version embedded, or a fit without a normative map."""
    states = []
    for interrupted in (False, True):
        if interrupted:
            shutil.rmtree(tmp_path / "bundle" / "fit" / "embeddings" / "train-scans")
        (tmp_path / "bundle" / "models" / "model.pt").unlink(missing_ok=True)
        fit([cohort], tmp_path / "bundle", embedder_name=str(tiny_vit), **FAST)
        states.append(torch.load(tmp_path / "bundle" / "models" / "model.pt", weights_only=True))
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


def test_frames_that_the_user_chooses(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    # A slab of a brain: this one agrees well with the others' mean (0.92), some that do not are placed by their boxes.
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    options = {"embedder_name": str(tiny_vit), **FAST, "axes": ["axial", "sagittal"]}
    for frame, expected in (("box", "box"), ("none", None), ("auto", "deformed")):
        fit([cohort], tmp_path / frame, **{**options, "frame": frame})
        (row,) = infer(tmp_path / frame, [scan], tmp_path / f"out-{frame}", report=False).scans
        assert row.frame == expected
        assert row.frame != "deformed" or row.frame_quality > 0.9
        assert read_settings(tmp_path / frame)["normative"] == ("off" if frame == "none" else "on")


def test_a_single_scan_is_no_cohort_and_a_named_side_counts_at_any_place(
    cohort: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    fitted, held_out = sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))[:2]
    for side in ("both", "bright"):
        options = {"embedder_name": str(tiny_vit), "intensity_side": side, "intensity_weight": 0.5, **FAST}
        outcome = fit([fitted], tmp_path / side, held_out=[held_out], **options)
        network = AnomalyModel.load(tmp_path / side).network
        assert network.normative is None
        assert "not judged by place" in str(outcome.note)
        assert (network.intensity_tail is not None) == (side == "bright") == ("bright counts" in str(outcome.note))
    assert network.intensity_tail is not None
    assert network.intensity_tail.fitted
    assert network.intensity_tail.weight == 0.5
    (scan,) = infer(tmp_path / "bright", [held_out], tmp_path / "out", report=False).scans
    assert scan.frame is None
    more = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    outcome = fit([more], tmp_path / "updated", update=tmp_path / "bright")
    assert "those of the bundle that was updated are not" in str(outcome.note)


def test_of_pictures_a_named_side_counts_at_any_place(tiny_vit: Path, tmp_path: Path) -> None:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(90, 110, (64, 64), np.uint8)
        pixels[:8] = 0
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    pictures = [tmp_path / f"{number}.png" for number in range(4)]
    for side in ("both", "dark"):
        options = {**FAST, "embedder_name": str(tiny_vit), "intensity_side": side, "num_components": 1}
        fit(pictures[:2], tmp_path / side, held_out=pictures[2:], **options)
        tail = AnomalyModel.load(tmp_path / side).network.intensity_tail
        assert (None if tail is None else tail.tail) == (None if side == "both" else "dark")


def test_heads_among_fitted_brains_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def read(_: FittedScans, name: str) -> FittedScan:
        side = 10 if name.startswith("head") else 8
        image = np.pad(np.ones((side,) * 3, np.float32), (12 - side) // 2)
        return FittedScan(image, np.diag([2.0, 2, 2, 1]), np.array(image.shape), np.eye(4), np.zeros(1, int))

    monkeypatch.setattr(FittedScans, "read", read)
    scans, normative = FittedScans(Path("none"), ScanDataset([], lambda item: item)), NormativeMap("affine")
    place._name_heads(normative, scans, ["brain1", "brain2", "brain3"])
    place._name_heads(normative, scans, ["head1"])  # with nothing to compare it with
    assert not caplog.messages
    place._name_heads(normative, scans, ["brain1", "head2", "brain2", "brain3", "head1"])
    brain = scans.read("brain")
    normative.set_reference([resample(brain.image, brain.affine, 2.0)])
    normative.scores.num_scans.fill_(2)
    place._name_heads(normative, scans, ["head1"])  # an update with one scan, or with heads alone
    place._name_heads(normative, scans, ["brain1"])
    said, again = caplog.messages
    assert said.startswith("head1, head2: larger than 1.5 times the other fitted scans, 4 mL;")
    assert again.startswith("head1: larger than 1.5 times the other fitted scans, 4 mL;")


def test_a_fitted_scan_unlike_the_others_is_named(
    cohort: Path, tiny_vit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One in whose middle everything is dark."""
    write_cohort(tmp_path, num_train=7, num_valid=0, num_test_healthy=0, num_test_abnormal=0, spacing=6.0, size="small")
    scans = sorted((tmp_path / "imagesTr").glob("train_*.nii.gz"))
    held_out = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    options = {"embedder_name": str(tiny_vit), **FAST, "frame": "auto", "held_out": [held_out]}
    image = nib.load(scans[2])
    values = np.asarray(image.dataobj, dtype=np.float32)
    values[tuple(slice(round(0.3 * n), round(0.7 * n)) for n in values.shape)] *= 0.4
    nib.save(nib.Nifti1Image(values, image.affine), scans[2])
    fit(scans, tmp_path / "bundle", **options)
    (said,) = (message for message in caplog.messages if "deviates more than" in message)
    assert said.startswith(f"{scans[2].name.removesuffix('.nii.gz')}: deviates more than 2 times as much")
    caplog.clear()
    place._name_unlike({"a": 1.0, "b": 1.0, "c": 1.0, "d": 9.0})  # too few to tell
    assert not caplog.messages
