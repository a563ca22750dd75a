# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""``fit --augment N``: copies of the fitted scans, acquired otherwise, are fitted as well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.embedding import EmbeddingStore

NAMES = [f"train_00{number}" for number in range(3)]


@pytest.fixture(scope="module")
def augmented(cohort: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of three scans and a copy of each, placed by their boxes: nothing is matched."""
    folder = tmp_path_factory.mktemp("augmented") / "bundle"
    assert not fit([cohort], folder, embedder_name=str(tiny_vit), augment=1, **FAST).failures
    return folder


def test_mixture_and_atlas_see_the_copies(bundle: Path, augmented: Path) -> None:
    plain, store = (EmbeddingStore(one / "fit" / "embeddings" / "train") for one in (bundle, augmented))
    assert sorted(store.sources) == sorted([*NAMES, *(f"{name}~1" for name in NAMES)])
    for name in NAMES:
        own, copy = store.source_rows(name), store.source_rows(f"{name}~1")
        assert torch.equal(own["patches"], plain.source_rows(name)["patches"])
        assert not torch.equal(own["patches"][:5], copy["patches"][:5])
    before, after = (AnomalyModel.load(one).network for one in (bundle, augmented))
    assert int(after.detector.mixture.statistic_size) == store.num_rows > plain.num_rows
    assert int(after.normative.scores.num_scans) == int(after.normative.intensity.num_scans) == 6
    assert torch.equal(before.normative.reference_values, after.normative.reference_values)
    assert float(after.normative.intensity.overall[1, 0]) != float(before.normative.intensity.overall[1, 0])
    # Held-out scans are as they were: two calibrate, and none of them has a copy.
    assert int(after.calibration.num_scans) == int(after.regions.num_scans) == 2
    held_out = EmbeddingStore(augmented / "fit" / "embeddings" / "validate")
    assert sorted(held_out.sources) == ["valid_000", "valid_001"]


def test_intensities_of_copies_do_not_count_where_scans_are_matched(
    cohort: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    fit([cohort], tmp_path / "bundle", embedder_name=str(tiny_vit), augment=1, **{**FAST, "frame": "deformed"})
    normative = AnomalyModel.load(tmp_path / "bundle").network.normative
    assert normative is not None
    assert bool(normative.matching)
    assert [int(atlas.num_scans) for atlas in (normative.intensity, normative.deviation, normative.scores)] == [3, 3, 6]


def test_the_bundle_says_what_was_done(bundle: Path, augmented: Path, tmp_path: Path) -> None:
    metadata, plain = (json.loads((one / "configs" / "metadata.json").read_text()) for one in (augmented, bundle))
    assert metadata["fitted"]["augment"] == 1
    assert "augment" not in plain["fitted"]
    assert metadata["fitted"]["num_fitted"] == 3
    assert "Of each fitted scan 1 copy was fitted as well" in (augmented / "docs" / "README.md").read_text()
    provenance = load_provenance(augmented)
    assert provenance["recipe"]["augment"] == 1
    assert [scan["name"] for scan in provenance["scans"]] == [*NAMES, "valid_000", "valid_001"]
    with pytest.raises(ValueError, match="`augment` must be the bundle's own, 1, got 0"):
        fit([bundle], tmp_path / "update", update=augmented, augment=0)


def test_bad_scans_are_named_once(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("hello")
    *scans, held_out = sorted((cohort.parent / "imagesTr").glob("train*.nii.gz"))
    scans.append(tmp_path / "bad.nii.gz")
    outcome = fit(scans, tmp_path / "bundle", held_out=[held_out], embedder_name=str(tiny_vit), augment=2, **FAST)
    assert [failure.name for failure in outcome.failures] == ["bad"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--augment", "-1"], "`augment` must lie in [0, inf), got -1"),
        (["--augment", "2", "--intensity", "ct_brain"], "`augment` must be 0 for CT"),
    ],
)
def test_refusals_are_one_line(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    command = ["fit", "--images", str(cohort), "--out", str(tmp_path / "out"), "--embedder", "pixels-8", *options]
    assert main(command) in (1, 2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert reason in line
    assert not (tmp_path / "out" / "models").exists()
