# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Two visits of a healthy person who has been scanned once."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_dpmm_ad.data.sequences import make_scan
from monai_dpmm_ad.normative.repeats import draw_motion, repeat_scan
from monai_dpmm_ad.transforms import LoadScan

__all__ = ["simulate_visits"]


def simulate_visits(item: Mapping[str, Any], folder: Path) -> list[Mapping[str, Any]]:
    """Two visits of a person who has been scanned once, each with a motion, a field and noise of its own.

    The sequences of a visit have the motion alike.
    """
    import nibabel as nib

    rng = np.random.default_rng(zlib.crc32(str(item["name"]).encode()))
    parts: Mapping[str, Any] = item.get("sequences") or {"": {"image": item["image"]}}
    scans = {}
    for name, part in parts.items():
        if part is not None:
            scan = LoadScan(spatial_dims=3)(part["image"], channel=part.get("channel"))
            scans[name] = np.asarray(scan[0], dtype=np.float32), np.asarray(scan.affine, dtype=np.float64)
    kept = {key: item[key] for key in ("name", "covariates") if key in item}
    visits: list[Mapping[str, Any]] = []
    for number in (1, 2):
        first, affine = next(iter(scans.values()))
        motion, written = draw_motion(first.shape, affine, rng), {}
        for name, (values, affine) in scans.items():
            written[name] = str(folder / f"{item['name']}_{number}{name and '_'}{name}.nii")
            nib.save(nib.Nifti1Image(repeat_scan(values, affine, rng, motion), affine), written[name])
        if item.get("sequences"):
            visits.append(make_scan(kept, [written.get(name) for name in parts], list(parts)))
        else:
            visits.append({**kept, "image": written[""]})
    return visits
