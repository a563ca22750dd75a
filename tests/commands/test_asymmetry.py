# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Maps compare left with right where both sides are alike."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import read_settings
from monai_dpmm_ad.bundle.parts import fit_settings
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.model import AnomalyModel


def test_a_bundle_keeps_it_and_a_site_can_be_learnt(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    options = {**FAST, "embedder_name": str(tiny_vit), "frame": "affine"}
    bundle = tmp_path / "auto"
    fit([cohort], bundle, **options)
    fit([cohort], tmp_path / "off", asymmetry="off", **options)
    assert [read_settings(one)["asymmetry"] for one in (bundle, tmp_path / "off")] == ["on", "off"]
    told = ["across the middle" in (one / "docs" / "README.md").read_text() for one in (bundle, tmp_path / "off")]
    assert told == [True, False]
    normative = AnomalyModel.load(bundle).network.normative
    assert normative is not None
    assert normative.asymmetry is not None
    assert int(normative.asymmetry.sizes.num_scans) == 3
    maps = []
    for one in (tmp_path / "off", bundle):
        assert not infer(one, [scan], tmp_path / f"out-{one.name}", report=False).failures
        maps.append(np.asarray(nib.load(tmp_path / f"out-{one.name}" / "test_healthy_000_anomaly.nii.gz").dataobj))
    inside = maps[0] > 0
    assert (maps[1][inside] >= maps[0][inside]).all(), "a further channel adds to the map"
    assert not (maps[1][~inside]).any()
    assert not fit([scan], tmp_path / "site", update=bundle, site="north").failures
    moved = AnomalyModel.load(tmp_path / "site").network.normative
    assert moved is not None
    assert moved.asymmetry is not None
    assert torch.equal(moved.asymmetry.sizes.mean, normative.asymmetry.sizes.mean)


@pytest.mark.parametrize("options", [{"normative": "off"}, {"intensity_side": "off"}, {"frame": "none"}])
def test_it_needs_intensities_by_place(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="`asymmetry` must be off where intensities are not judged by place"):
        fit_settings({"asymmetry": "on", **options})


def test_nobody_has_to_turn_it_off() -> None:
    assert fit_settings({"normative": "off"})["asymmetry"] == "off"
    assert fit_settings({})["asymmetry"] == "auto"


def test_with_covariates_it_must_be_asked_for_since_atlases_stay_below_10_mb() -> None:
    people = {"covariates": "people.csv"}
    assert fit_settings(people)["asymmetry"] == "off"
    assert fit_settings({**people, "asymmetry": "on"})["asymmetry"] == "on"
