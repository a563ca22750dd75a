# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The demo cohort: complete, deterministic, on varied grids, with masks that match."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from monai_dpmm_ad.data.anatomies import draw_anatomy
from monai_dpmm_ad.data.phantoms import _load_template, write_cohort
from monai_dpmm_ad.pretraining.anatomy import load_template_labels

pytest.importorskip("nilearn", reason="the phantoms need nilearn (extra demo)")

SMALL = {"num_train": 3, "num_valid": 1, "num_test_healthy": 1, "num_test_abnormal": 3, "spacing": 4, "size": "small"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"), **SMALL)  # type: ignore[arg-type]


def _load(cohort: Path, relative: str) -> tuple[nib.Nifti1Image, np.ndarray]:
    image = nib.load(cohort.parent / relative)
    return image, np.asarray(image.dataobj)


def test_datalist_names_files_that_exist(cohort: Path) -> None:
    content = json.loads(cohort.read_text())
    assert [len(content[key]) for key in ("training", "validation", "test")] == [3, 1, 4]
    assert (content["numTraining"], content["numTest"]) == (3, 4)
    items = [item for key in ("training", "validation", "test") for item in content[key]]
    assert len({item["name"] for item in items}) == len(items)
    assert all((cohort.parent / item["image"]).is_file() for item in items)
    assert [item["abnormal"] for item in content["test"]] == [0, 1, 1, 1]
    assert not any("label" in item for item in content["training"] + content["validation"])
    assert not list(cohort.parent.rglob(".partial*"))


def test_monai_reads_the_datalist(cohort: Path) -> None:
    from monai.data import load_decathlon_datalist

    items = load_decathlon_datalist(str(cohort), data_list_key="test")
    assert all(Path(item["image"]).is_file() and Path(item["label"]).is_file() for item in items)


def test_labels_match_their_scans_and_are_empty_in_healthy_ones(cohort: Path) -> None:
    for item in json.loads(cohort.read_text())["test"]:
        image, data = _load(cohort, item["image"])
        label, mask = _load(cohort, item["label"])
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(image.affine, label.affine)
        assert data.shape == mask.shape
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.any() == bool(item["abnormal"])
        assert (data[mask > 0] > 0).all(), "lesions lie inside the brain"


def test_background_is_zero_and_the_brain_fills_the_rest(cohort: Path) -> None:
    for item in json.loads(cohort.read_text())["training"]:
        _, data = _load(cohort, item["image"])
        assert data.dtype in (np.int16, np.float32)
        assert data.min() == 0
        assert 0.2 < (data > 0).mean() < 0.8


def test_subjects_differ_in_grid_orientation_and_contrast(cohort: Path) -> None:
    scans = [_load(cohort, item["image"]) for item in json.loads(cohort.read_text())["training"]]
    assert len({nib.aff2axcodes(image.affine) for image, _ in scans}) == 3
    assert len({tuple(np.round(image.header.get_zooms(), 2)) for image, _ in scans}) > 1
    assert len({round(float(np.median(data[data > 0]))) for _, data in scans}) == 3


def test_small_is_a_slab_of_the_full_brain_in_the_same_place(cohort: Path, tmp_path: Path) -> None:
    full = write_cohort(
        tmp_path, num_train=1, num_valid=0, num_test_healthy=0, num_test_abnormal=0, spacing=4, modality="FLAIR"
    )
    heights = []
    for datalist in (cohort, full):
        image, data = _load(datalist, "imagesTr/train_000.nii.gz")
        z = nib.affines.apply_affine(image.affine, np.argwhere(data > 0))[:, 2]
        heights.append((z.min(), z.max()))
    assert heights[0][0] > heights[1][0] + 20
    assert heights[0][1] < heights[1][1] - 20
    assert heights[0][1] - heights[0][0] == pytest.approx(28, abs=2)


def test_same_seed_same_bytes_whatever_the_size_of_the_cohort(cohort: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    write_cohort(
        tmp_path,
        num_train=1,
        num_valid=0,
        num_test_healthy=0,
        num_test_abnormal=1,
        spacing=4,
        size="small",
        progress=lambda done, total: reported.append((done, total)),
    )
    for name in ("imagesTr/train_000.nii.gz", "imagesTs/test_abnormal_000.nii.gz", "labelsTs/test_abnormal_000.nii.gz"):
        assert (tmp_path / name).read_bytes() == (cohort.parent / name).read_bytes()
    assert reported == [(1, 2), (2, 2)]
    other = tmp_path / "other"
    write_cohort(
        other, num_train=1, num_valid=0, num_test_healthy=0, num_test_abnormal=0, spacing=4, size="small", seed=1
    )
    assert (other / "imagesTr/train_000.nii.gz").read_bytes() != (tmp_path / "imagesTr/train_000.nii.gz").read_bytes()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"num_train": 2, "num_valid": 1, "num_test_healthy": 1, "num_test_abnormal": 2}
    return write_cohort(tmp_path_factory.mktemp("demo"), style="demo", spacing=4, **sizes)  # type: ignore[arg-type]


def test_demo_is_one_study_of_thick_slices(demo: Path) -> None:
    content = json.loads(demo.read_text())
    items = [item for key in ("training", "validation", "test") for item in content[key]]
    images = [_load(demo, item["image"])[0] for item in items]
    assert {nib.aff2axcodes(image.affine) for image in images} == {("L", "P", "S")}
    assert len({image.shape for image in images}) == 1
    np.testing.assert_allclose(images[0].header.get_zooms(), (4, 4, 8))


def test_demo_lesions_are_large_enough_to_see(demo: Path) -> None:
    found = []
    for item in json.loads(demo.read_text())["test"]:
        label, mask = _load(demo, item["label"])
        assert mask.any() == bool(item["abnormal"])
        parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        voxel = float(np.prod(label.header.get_zooms()))
        found += [float((6 / np.pi * voxel * (parts == i).sum()) ** (1 / 3)) for i in range(1, count + 1)]
    assert found
    assert max(found) > 12
    assert max(found) < 36


def test_demo_subjects_differ_in_more_than_shape() -> None:
    maps, _ = _load_template(4.0, "full")
    drawn = [draw_anatomy(maps, 4.0, (4.0, 4.0, 4.0), np.random.default_rng(seed)) for seed in range(6)]
    assert all(np.allclose(found[:3].sum(0).clip(0, 1), found[:3].sum(0), atol=1e-5) for found in drawn)
    fluid = np.array([found[2].sum() / found[:3].sum() for found in drawn])
    assert fluid.max() > 1.25 * fluid.min()
    again = draw_anatomy(maps, 4.0, (4.0, 4.0, 4.0), np.random.default_rng(0))
    np.testing.assert_array_equal(again, drawn[0])
    coarse = draw_anatomy(maps, 4.0, (4.0, 4.0, 8.0), np.random.default_rng(0))
    assert coarse.shape[1:3] == maps.shape[1:3]
    assert coarse.shape[3] == pytest.approx(maps.shape[3] / 2, abs=1)


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`modality` must be one of FLAIR, T1, got 'T1w'\. Did you mean 'T1'"):
        write_cohort(tmp_path, modality="T1w")
    with pytest.raises(ValueError, match=r"`style` must be one of .*Did you mean 'demo'"):
        write_cohort(tmp_path, style="dmeo")
    with pytest.raises(ValueError, match="`size` must be one of"):
        write_cohort(tmp_path, size="tiny")
    with pytest.raises(ValueError, match="`spacing` must be a whole number"):
        write_cohort(tmp_path, spacing=0.5)
    with pytest.raises(ValueError, match="`num_valid` must not be negative, got -1"):
        write_cohort(tmp_path, num_valid=-1)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(
        ImportError, match=r"nilearn is needed and not installed\. Run: pip install 'monai-dpmm-ad\[demo\]'"
    ):
        write_cohort(tmp_path, num_train=1, num_valid=0, num_test_healthy=0, num_test_abnormal=1)
    with pytest.raises(ImportError, match="nilearn is needed"):
        load_template_labels(2)
