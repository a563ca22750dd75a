# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""``fit --update B --site NAME``: a bundle for another scanner, of a few healthy scans of it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import load_workflow, read_settings
from monai_dpmm_ad.bundle.promises import judge_network
from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.run import FITTED_ALREADY
from monai_dpmm_ad.network import AnomalyNet


def _load(bundle: Path) -> AnomalyNet:
    with load_workflow(bundle, ["inference"], "inference") as workflow:
        network: AnomalyNet = workflow.network
    return network


@pytest.fixture(scope="module")
def scans(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Healthy scans of a scanner with less contrast and a field that brightens one side."""
    folder = tmp_path_factory.mktemp("site")
    sources = [*(cohort.parent / "imagesTr").glob("*.nii.gz"), *(cohort.parent / "imagesTs").glob("*healthy*.nii.gz")]
    for source in sorted(sources):
        scan = nib.load(source)
        values = np.asarray(scan.dataobj, dtype=np.float32)
        inside = values > 0
        field = np.linspace(0.7, 1.3, values.shape[0], dtype=np.float32)[:, None, None]
        values[inside] = (np.sqrt(values * np.median(values[inside])) * field)[inside]
        nib.save(nib.Nifti1Image(values, scan.affine), folder / source.name)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def moved(bundle: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle for that scanner, of four scans of it."""
    folder = tmp_path_factory.mktemp("moved") / "bundle"
    command = ["fit", "--update", bundle, "--site", "north", "--images", *scans[:4], "--out", folder]
    assert main([*map(str, command)]) == 0
    return folder


def test_a_site_has_no_held_out_scans(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`held_out` must be left out with `site`"):
        fit(scans[:1], tmp_path / "new", [scans[1]], update=bundle, site="north")


def test_scans_of_the_site_are_less_unusual_and_calibrate_it(
    bundle: Path, moved: Path, scans: list[Path], tmp_path: Path
) -> None:
    before, after = _load(bundle), _load(moved)
    assert read_settings(moved)["site"] == "north"
    assert "It is for scans of `north`: a few healthy ones moved" in (moved / "docs" / "README.md").read_text()
    assert int(after.regions.num_scans) == int(after.calibration.num_scans) == 4
    assert not bool(after.regions.held_out)
    old, new = before.state_dict(), after.state_dict()
    kept = [name for name in old if not name.startswith(("calibration.", "regions."))]
    assert all(torch.equal(old[name], new[name]) for name in kept), "mixture and atlas stay"
    new_scan = scans[4]
    scores = [
        infer(one, [new_scan], tmp_path / one.parent.name, report=False).scans[0].score for one in (bundle, moved)
    ]
    assert scores[1] < scores[0]
    roles = [(scan["role"], scan["calibrates"]) for scan in load_provenance(moved)["scans"]]
    assert roles == [("fitted", False)] * 3 + [("held_out", False)] * 2 + [("held_out", True)] * 4


def test_the_same_command_finds_its_work_done(
    bundle: Path, moved: Path, scans: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = (moved / "models" / "model.pt").stat().st_mtime_ns
    command = ["fit", "--update", bundle, "--site", "north", "--images", *scans[:4], "--out", moved]
    assert main([*map(str, command)]) == 0
    said = capsys.readouterr()
    assert FITTED_ALREADY in said.err
    assert "scans: 3 fitted, 6 held out in all, 4 of them calibrate" in said.out
    assert (moved / "models" / "model.pt").stat().st_mtime_ns == model
    assert main([*map(str, [*command[:4], "south", *command[5:]])]) == 1
    assert "holds a fitted bundle already" in capsys.readouterr().err


def test_what_the_site_s_calibration_is_worth_is_said(moved: Path) -> None:
    note = judge_network(_load(moved), {**read_settings(moved), "false_regions": 1.0})
    assert str(note).endswith("this bundle was calibrated on 4 of north, which it was learnt from")
    assert "which the site was learnt from as well" in (moved / "docs" / "README.md").read_text()


def test_fitted_scans_are_of_no_other_site(
    bundle: Path, cohort: Path, scans: list[Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    fitted = sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))
    with pytest.raises(ValueError, match="`images` must hold scans of the site that were not fitted, got none"):
        fit(fitted, tmp_path / "none", update=bundle, site="north")
    assert not (tmp_path / "none").exists()


def test_one_scan_moves_little_and_the_old_calibration_stays(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    (scan, other) = sorted((cohort.parent / "imagesTs").glob("*healthy*.nii.gz"))
    outcome = fit([scan], tmp_path / "one", update=bundle, site="same")
    assert outcome.note is not None
    assert outcome.note.startswith("1 scan of same moved what is expected there, but thresholds and p-values are still")
    assert torch.equal(_load(tmp_path / "one").regions.largest, _load(bundle).regions.largest)
    rows = [
        infer(one, [other], tmp_path / f"out-{one.name}", report=False).scans[0] for one in (bundle, tmp_path / "one")
    ]
    assert rows[1].score == pytest.approx(rows[0].score, rel=0.35)


def test_a_site_learns_what_matching_leaves(
    moved: Path, cohort: Path, tiny_vit: Path, scans: list[Path], tmp_path: Path
) -> None:
    """Field and contrast are taken away first: the same scans move less, and the new bundle still matches."""
    matching = tmp_path / "matching"
    fit([cohort], matching, embedder_name=str(tiny_vit), **{**FAST, "frame": "affine"})
    assert not fit(scans[:4], tmp_path / "site", update=matching, site="north").failures
    networks = [_load(one) for one in (moved, tmp_path / "site")]  # boxes are not matched
    assert [bool(network.normative.matching) for network in networks] == [False, True]
    assert [int(network.regions.num_scans) for network in networks] == [4, 4]
    of_intensities = [float(network.normative.site.offset[1:].abs().mean()) for network in networks]
    assert of_intensities[1] < 0.5 * of_intensities[0]
    before, after = (
        infer(one, [scans[4]], tmp_path / f"out-{one.name}", report=False).scans[0]
        for one in (matching, tmp_path / "site")
    )
    assert before.frame == after.frame == "affine"
    assert after.score < before.score


def test_refusals_are_one_line(
    bundle: Path,
    moved: Path,
    scans: list[Path],
    picture_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options, reason in (
        (["--site", "north"], "`site` must come with `update`"),
        (["--site", "south", "--update", moved], "`update` must name a bundle of no site, got that of north"),
        (["--update", moved], "`update` must name a bundle of no site, got that of north"),
        (
            ["--site", "", "--update", bundle],
            "`site` must be a name of 64 characters at most that begins with a letter",
        ),
        (["--site", "<b>", "--update", bundle], "`site` must be a name of 64 characters at most that begins with a l"),
        (["--site", "north", "--update", picture_bundle], "a bundle that judges by place"),
        (["--site", "north", "--update", bundle, "--image-size", "64"], "`image_size` must be the bundle's own, 56"),
        (["--site", "north", "--update", bundle, "--covariates", scans[0]], "that was fitted without"),
        (["--site", "north", "--update", bundle, "--max-epochs", "3"], "`max_epochs` must be left out with `site`"),
        (["--site", "north", "--update", bundle, "--seed", "1"], "`seed` must be left out with `site`, got 1"),
        (["--site", "north", "--update", bundle, "--regions", scans[0]], "`regions` must be left out with `site`"),
        (
            ["--site", "north", "--update", bundle, "--mlflow", "sqlite:///x.db"],
            "`mlflow` must be left out with `site`",
        ),
        (["--update", bundle, "--match", "off"], "`match` must be the bundle's own, on, got off"),
    ):
        command = ["fit", "--images", scans[0], "--out", tmp_path / "refused", *options]
        assert main([*map(str, command)]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert reason in line
    assert not (tmp_path / "refused" / "models").exists()
