# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small scans on disk."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def head() -> np.ndarray:
    """An ellipsoid with a dark centre, off the middle, in a volume of unequal sides, on an exactly black background."""
    shape = np.array([20, 24, 18])
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    radius = np.linalg.norm((grid - [9, 13, 8]) / [7, 8, 6], axis=-1)
    noise = np.random.default_rng(0).normal(0, 2, shape)
    volume = np.where(radius < 1, 100 + noise, 0.0)
    volume[radius < 0.3] = 0.0
    return volume.astype(np.float32)


@pytest.fixture
def save(tmp_path: Path):
    """Write an array as NIfTI and return its path."""

    def write(array: np.ndarray, name: str = "scan.nii.gz", affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine), path)
        return path

    return write
