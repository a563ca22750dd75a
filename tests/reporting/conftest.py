# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small scans with maps, masks and truth on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="reports need matplotlib (extra report)")

from monai_dpmm_ad.data.readers import PICTURE_AFFINE
from monai_dpmm_ad.handlers.regions import compute_regions
from monai_dpmm_ad.reporting import ScanResult

THRESHOLD = 2.0


def make_arrays(shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Return a ball as scan, a map with one hot spot, its mask, and a truth next to it."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = np.linalg.norm(grid, axis=0) < 0.9
    spot = np.exp(-np.sum((grid - 0.3) ** 2, axis=0) / 0.05)
    anomaly_map = np.where(inside, 1 + 0.1 * rng.random(shape) + 3 * spot, 0).astype(np.float32)
    return {
        "image": np.where(inside, 200 + 50 * rng.random(shape), 0).astype(np.float32),
        "anomaly_map": anomaly_map,
        "mask": (anomaly_map > THRESHOLD).astype(np.uint8),
        "label": (spot > 0.6).astype(np.uint8),
    }


def _regions(arrays: dict[str, np.ndarray], affine: np.ndarray) -> dict[str, Any]:
    """Return the flagged regions as a run gives them: the hot spot, and a second one that was painted by hand."""
    mask = arrays["mask"].copy()
    mask[(slice(0, 2),) * mask.ndim] = 1
    regions = compute_regions(mask, arrays["anomaly_map"], affine).listed
    return {"regions": regions, "num_regions": len(regions)}


@pytest.fixture
def make_volume(tmp_path: Path) -> Callable[..., ScanResult]:
    """Write a volume's files and return its result."""

    def make(name: str = "scan", shape: tuple[int, ...] = (22, 26, 18), **changes: Any) -> ScanResult:
        folder = tmp_path / f"files{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        paths: dict[str, Any] = {}
        arrays, affine = make_arrays(shape, seed=len(name)), np.diag([-2.0, 2.0, 2.5, 1.0])
        for key, array in arrays.items():
            paths[key] = folder / f"{key}.nii.gz"
            nib.save(nib.Nifti1Image(array, affine), paths[key])
        facts = {"name": name, "score": 1.5, "threshold": THRESHOLD, "abnormal": True}
        return ScanResult(**(facts | _regions(arrays, affine) | paths | changes))

    return make


@pytest.fixture
def make_picture(tmp_path: Path) -> Callable[..., ScanResult]:
    """Write a picture's files, the map in 16 bits with mid-grey at the threshold, and return its result."""

    def make(name: str = "picture", shape: tuple[int, int] = (40, 30), **changes: Any) -> ScanResult:
        paths: dict[str, Any] = {}
        arrays = make_arrays(shape, seed=len(name))
        for key, array in arrays.items():
            paths[key] = tmp_path / f"{name}_{key}.png"
            if key == "anomaly_map":
                array = np.clip(array / (2 * THRESHOLD) * 65535, 0, 65535).astype(np.uint16)
            elif key == "image":
                array = array.clip(0, 255).astype(np.uint8)
            else:
                array = (array * 255).astype(np.uint8)
            Image.fromarray(array).save(paths[key])
        turned = {key: array.T for key, array in arrays.items()}  # columns first, as a picture is read
        facts = {"name": name, "score": 1.2, "threshold": THRESHOLD}
        return ScanResult(**(facts | _regions(turned, PICTURE_AFFINE) | paths | changes))

    return make
