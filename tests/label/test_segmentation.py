# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The Segmentation that the server makes of a series, without a DICOM server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed here; `make test-label` runs these tests")

import pydicom
from helpers.dicom_series import write_series

from monai_dpmm_ad.label.segmentation import segment
from monai_dpmm_ad.transforms import LoadScan

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("in_range", [True, False, None])
def test_a_scan_outside_of_what_was_fitted_is_marked_in_the_descriptions(tmp_path: Path, in_range: bool | None) -> None:
    write_series(tmp_path / "series", np.random.default_rng(0).integers(1, 99, (8, 6, 4)).astype(float), np.eye(4))
    scan = LoadScan().read(str(tmp_path / "series"), is_label=False)
    mask = np.zeros(scan.shape[1:], np.uint8)
    mask[2:4, 2, 1] = 1
    drawn = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(mask, scan.affine.numpy()), drawn)
    facts: dict[str, Any] = {"label_names": {"anomaly_level_1": 1}, "in_range": in_range}
    app: Any = SimpleNamespace(
        infer=lambda request: {"file": str(drawn), "params": facts},
        datastore=lambda: SimpleNamespace(series_folder=lambda image: str(tmp_path / "series")),
    )
    answer = segment(app, "dpmm_ad_mask", "1.2.3", {})
    dataset = pydicom.dcmread(answer.path)
    Path(answer.path).unlink()
    assert int(dataset.pixel_array.sum()) == 2
    marked = in_range is False
    assert ("OUTSIDE OF WHAT WAS FITTED" in dataset.SeriesDescription) is marked
    assert ("do not rely on it" in dataset.ContentDescription) is marked
    assert not drawn.exists()
