# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Two visits of a healthy person who has been scanned once."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_dpmm_ad.normative.repeats import repeat_scan
from monai_dpmm_ad.transforms import LoadScan

__all__ = ["simulate_visits"]


def simulate_visits(item: Mapping[str, Any], folder: Path) -> list[Mapping[str, Any]]:
    """Two visits of a person who has been scanned once, each with a motion, a field and noise of its own."""
    import nibabel as nib

    scan = LoadScan(spatial_dims=3)(item["image"])
    values, affine = np.asarray(scan[0], dtype=np.float32), np.asarray(scan.affine, dtype=np.float64)
    rng = np.random.default_rng(zlib.crc32(str(item["name"]).encode()))
    visits: list[Mapping[str, Any]] = []
    for number in (1, 2):
        path = folder / f"{item['name']}_{number}.nii"
        nib.save(nib.Nifti1Image(repeat_scan(values, affine, rng), affine), path)
        kept = {key: item[key] for key in ("name", "covariates") if key in item}
        visits.append({**kept, "image": str(path)})
    return visits
