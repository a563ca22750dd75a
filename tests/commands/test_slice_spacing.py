# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Slices near one another are not all looked at, in a fit and in what it fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import FAST

from monai_dpmm_ad.bundle import read_settings
from monai_dpmm_ad.bundle.parts import fit_settings
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.model import AnomalyModel

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bundles"


def test_the_published_map_and_older_bundles_take_every_slice() -> None:
    assert fit_settings({})["slice_spacing"] == 1 / 64
    assert fit_settings({"slice_spacing": 0})["slice_spacing"] == 0
    assert fit_settings({"normative": "off"})["slice_spacing"] == 0
    assert fit_settings({"frame": "none"})["slice_spacing"] == 0
    assert read_settings(FIXTURES / "format_4")["slice_spacing"] == 0
    assert read_settings(FIXTURES / "format_5")["slice_spacing"] == 0.2


def test_the_published_map_and_older_bundles_have_one_plane() -> None:
    assert fit_settings({})["axes"] == ["auto"]
    assert fit_settings({"axes": ["coronal"]})["axes"] == ["coronal"]
    assert fit_settings({"normative": "off"})["axes"] == ["axial"]
    assert fit_settings({"normative": "off", "axes": ["auto"]})["axes"] == ["auto"]  # of one scan, which is updated
    assert fit_settings({"location_weight": 0.5})["axes"] == ["axial"]
    with pytest.raises(ValueError, match="auto alone"):
        fit_settings({"axes": ["axial", "auto"]})


def test_a_fit_that_is_refused_leaves_no_folder(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auto alone"):
        fit([cohort], tmp_path / "bundle", axes=["axial", "auto"])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def sparse(cohort: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse") / "bundle"
    options = {**FAST, "axes": ["axial", "coronal", "sagittal"], "slice_spacing": 0.1}
    assert not fit([cohort], folder, embedder_name=str(tiny_vit), **options).failures
    return folder


def test_several_planes_weigh_more(bundle: Path, sparse: Path) -> None:
    maps = [AnomalyModel.load(folder).network.normative for folder in (bundle, sparse)]
    weights = [normative.weights.tolist() for normative in maps if normative is not None]
    assert weights == [[1.25, 0.7, 0.5], [1.75, 0.7, 0.5]]


def test_maps_fill_the_foreground_from_few_slices(cohort: Path, bundle: Path, sparse: Path) -> None:
    scan = cohort.parent / "imagesTs" / "test_abnormal_001.nii.gz"
    filled, seen = [], []
    for folder, options in ((bundle, {"axes": ["axial"]}), (sparse, {})):
        model, counts = AnomalyModel.load(folder, **options), []
        model.network.register_forward_pre_hook(lambda _, args, counts=counts: counts.append(len(args[0])))
        filled.append(np.asarray(model.predict(scan).map) > 0)
        seen.append(sum(counts))
    assert np.array_equal(*filled)
    assert filled[0].any()
    axial, *others = (int(filled[0].any(tuple({0, 1, 2} - {axis})).sum()) for axis in (2, 1, 0))
    assert seen[0] == axial
    assert 0 < seen[1] < (axial + sum(others)) / 2
