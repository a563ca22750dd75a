# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Bundles that other versions of this package fitted run, by their settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_dpmm_ad.bundle import FORMAT_VERSION, SETTINGS, formats, names_of, read_settings, write_settings
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.errors import CheckpointError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bundles"
FORMATS = sorted(FIXTURES.glob("format_*"))


def write(bundle: Path, **config: object) -> Path:
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    return bundle


def test_there_is_a_bundle_of_every_format() -> None:
    assert [path.name for path in FORMATS] == [f"format_{number}" for number in range(1, FORMAT_VERSION + 1)]


@pytest.mark.parametrize("bundle", FORMATS, ids=lambda path: path.name)
def test_a_bundle_of_any_format_draws_the_map_that_it_drew(bundle: Path, tmp_path: Path) -> None:
    outcome = infer(bundle, [FIXTURES / "scan.nii.gz"], tmp_path, report=False)
    assert not outcome.failures
    found, expected = (
        np.asarray(nib.load(path).dataobj) for path in (tmp_path / "scan_anomaly.nii.gz", bundle / "expected.nii.gz")
    )
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * expected.max())


def test_format_1_has_its_settings_at_the_top_and_what_it_lacks_has_its_default(tmp_path: Path) -> None:
    old = json.loads((FIXTURES / "format_1" / "configs" / "inference.json").read_text())
    settings = read_settings(FIXTURES / "format_1")
    old["min_region_volume"] = old.pop("min_lesion_volume")
    assert {name: value for name, value in settings.items() if name in old and value != old[name]} == {}
    assert set(settings) == set(names_of("model", "run", "both"))
    assert settings["num_components"] == 4 != SETTINGS["num_components"].default
    del old["num_shifts"]
    assert read_settings(write(tmp_path, **old))["num_shifts"] == 1


def test_a_setting_is_read_under_its_former_name(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        settings = {"min_lesion_volume": 7.5}
        config = settings if number == 1 else {"format_version": number, "settings": settings}
        assert read_settings(write(tmp_path / str(number), **config))["min_region_volume"] == 7.5


def test_bundles_from_before_there_was_a_normative_map_have_none(tmp_path: Path) -> None:
    for number in (1, 2):
        config = {} if number == 1 else {"format_version": number, "settings": {}}
        settings = read_settings(write(tmp_path / str(number), **config))
        assert (settings["normative"], settings["pooling"], settings["false_positive_rate"]) == ("off", "top1pct", 0.01)


def test_bundles_from_before_sides_were_compared_do_not_compare_them(tmp_path: Path) -> None:
    for number, settings, expected in [(3, {}, "off"), (3, {"asymmetry": "on"}, "on"), (4, {}, "auto")]:
        bundle = write(tmp_path / str(len(list(tmp_path.iterdir()))), format_version=number, settings=settings)
        assert read_settings(bundle)["asymmetry"] == expected


def test_bundles_from_before_planes_were_chosen_have_the_axial_one(tmp_path: Path) -> None:
    for number, settings, expected in [(5, {}, "axial"), (5, {"axes": ["coronal"]}, "coronal"), (6, {}, "auto")]:
        bundle = write(tmp_path / str(len(list(tmp_path.iterdir()))), format_version=number, settings=settings)
        assert read_settings(bundle)["axes"] == [expected]


def test_what_a_format_brought_is_not_forced_on_older_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a later version had made ``upsampling``, with ``nearest`` where nothing was before."""
    later = FORMAT_VERSION + 1
    monkeypatch.setattr(formats, "FORMAT_VERSION", later)
    monkeypatch.setattr(formats, "BROUGHT", {later: {"upsampling": "nearest"}})
    for number, said, expected in [
        (1, {}, "nearest"),
        (later - 1, {}, "nearest"),
        (later - 1, {"upsampling": "bilinear"}, "bilinear"),
        (later, {}, "guided"),
    ]:
        config = said if number == 1 else {"format_version": number, "settings": said}
        folder = tmp_path / f"{number}{len(said)}"
        assert read_settings(write(folder, **config))["upsampling"] == expected


@pytest.mark.parametrize(
    ("number", "message"), [(FORMAT_VERSION + 1, "Update"), ("2", "whole number"), (True, "whole")]
)
def test_a_format_that_is_none_is_refused(tmp_path: Path, number: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_settings(write(tmp_path, format_version=number, settings={}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_components": 8}, r"must have shape \(8,\)"),
        ({"detector_name": "ogae"}, "does not fit the bundle's settings"),
    ],
)
def test_a_state_that_does_not_fit_the_settings_is_named(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    bundle = Path(shutil.copytree(FIXTURES / "format_2", tmp_path / "bundle"))
    write_settings(bundle, settings)
    with pytest.raises(CheckpointError, match=message):
        infer(bundle, [FIXTURES / "scan.nii.gz"], tmp_path / "out", report=False)
