# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Raw patches, a convolutional autoencoder, one score per voxel: from scans to maps."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from conftest import FAST

from monai_dpmm_ad.commands import fit, infer


def test_raw_patches_give_a_map_of_voxels(cohort: Path, tmp_path: Path) -> None:
    options = {"architecture": "conv", "width": 4, "latent_dim": 4, "num_latents": 200}
    outcome = fit(
        [cohort],
        tmp_path / "bundle",
        detector_name="ogae",
        detector_options=options,
        embedder_name="pixels-8",
        num_shifts=8,
        **{**FAST, "max_epochs": 1},
    )
    assert not outcome.failures
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    assert not infer(tmp_path / "bundle", [scan], tmp_path / "out", report=False).failures
    source = nib.load(scan).get_fdata()
    anomaly = nib.load(tmp_path / "out" / "test_healthy_000_anomaly.nii.gz").get_fdata()
    assert anomaly.shape == source.shape
    assert bool((anomaly[source > 0] >= 0).all())
    values = anomaly[anomaly > 0]
    assert len(np.unique(values)) > 0.9 * len(values)
