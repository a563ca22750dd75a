# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Fixtures shared by all tests: a small cohort, a tiny backbone, a bundle fitted with both."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_vit import write_tiny_vit

#: A fit that takes seconds; what is tested with it is the wiring, not how good the maps are.
FAST = {"image_size": 56, "num_components": 8, "max_epochs": 2, "patches_per_batch": 512, "frame": "box"}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datalist of small brain phantoms in several orientations; two of the four test subjects have lesions."""
    from monai_dpmm_ad.data.phantoms import write_cohort

    folder = tmp_path_factory.mktemp("cohort")
    return write_cohort(
        folder, num_train=3, num_valid=2, num_test_healthy=2, num_test_abnormal=2, spacing=4.0, size="small"
    )


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DINOv2 in the Hugging Face format."""
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    write_tiny_vit(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(cohort: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted bundle; tests must not change it."""
    from monai_dpmm_ad.commands import fit

    folder = tmp_path_factory.mktemp("fitted") / "bundle"
    outcome = fit([cohort], folder, embedder_name=str(tiny_vit), **FAST)
    assert not outcome.failures
    return folder


@pytest.fixture(scope="session")
def brains(tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bundle``, fitted on brains that were cut out and to be matched, and one more person's ``head``,
    with its skull, and ``brain``, as files of one grid; tests must not change it."""
    import nibabel as nib
    from helpers.heads import make_twins, write_brains

    from monai_dpmm_ad.commands import fit

    folder = tmp_path_factory.mktemp("brains")
    scans = write_brains(folder / "scans", 5)
    fast = {**FAST, "frame": "affine"}
    assert not fit(scans[:3], folder / "bundle", scans[3:], embedder_name=str(tiny_vit), **fast).failures
    for name, image in make_twins().items():
        nib.save(image, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def picture_bundle(cohort: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was fitted on pictures; tests must not change it."""
    import nibabel as nib
    import numpy as np
    from PIL import Image

    from monai_dpmm_ad.commands import fit

    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        data = nib.load(cohort.parent / "imagesTr" / f"train_00{number}.nii.gz").get_fdata()
        (folder / f"sub-{number}").mkdir()
        for index in (3, 5):
            pixels = (255 * data[:, :, index] / data[:, :, index].max()).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"sub-{number}" / f"{index}.png")
    assert not fit([folder], folder / "bundle", embedder_name=str(tiny_vit), **FAST).failures
    return folder / "bundle"
