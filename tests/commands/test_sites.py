# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A cohort of several sites, by a column of the table: offsets, groups, what is said of strangers."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import load_workflow, read_settings
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.normative.trend_map import TrendMap


@pytest.fixture(scope="module")
def scans(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Healthy scans, each of two scanners; the images of the second, ``south``, are grainy."""
    folder = tmp_path_factory.mktemp("scanners")
    sources = [*(cohort.parent / "imagesTr").glob("*.nii.gz"), *(cohort.parent / "imagesVal").glob("*.nii.gz")]
    sources += (cohort.parent / "imagesTs").glob("*healthy*.nii.gz")
    for source in sorted(sources):
        scan = nib.load(source)
        values = np.asarray(scan.dataobj, dtype=np.float32)
        nib.save(nib.Nifti1Image(values, scan.affine), folder / f"north_{source.name}")
        inside = values > 0
        rng = np.random.default_rng(0)
        grain = rng.normal(0, 0.15 * np.median(values[inside]), values.shape).astype(np.float32)
        grainy = np.where(inside, np.maximum(values + grain, 1), 0)
        nib.save(nib.Nifti1Image(grainy, scan.affine), folder / f"south_{source.name}")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def table(scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "people.csv"
    lines = [f"{scan.name.removesuffix('.nii.gz')},{scan.name.split('_')[0]}" for scan in scans]
    path.write_text("\n".join(["name,site", *lines, "stranger,east"]) + "\n", encoding="utf-8")
    return path


def _parted(scans: list[Path]) -> tuple[list[Path], list[Path], Path]:
    """Scans to fit, two of each site to hold out, and one of the south that neither is."""
    train = [scan for scan in scans if "train" in scan.name]
    others = [scan for scan in scans if "valid" in scan.name]
    return train, others, next(scan for scan in scans if scan.name.startswith("south_test"))


@pytest.fixture(scope="module")
def joined(scans: list[Path], table: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that tells the sites apart and is calibrated by site."""
    folder = tmp_path_factory.mktemp("joined") / "bundle"
    train, held_out, _ = _parted(scans)
    options = {"embedder_name": str(tiny_vit), "covariates": table, "group_by": "site", "match": "off", **FAST}
    outcome = fit(train, folder, held_out, **options)
    assert not outcome.failures
    return folder


def _load(bundle: Path) -> AnomalyNet:
    with load_workflow(bundle, ["inference"], "inference") as workflow:
        network: AnomalyNet = workflow.network
    return network


def test_a_fit_learns_an_offset_and_a_calibration_of_each_site(joined: Path) -> None:
    network = _load(joined)
    assert read_settings(joined)["sites"] == ["north", "south"]
    assert network.covariates == ("site",)
    assert isinstance(network.normative, TrendMap)
    sites = network.normative.sites
    assert sites is not None
    assert sites.num_scans.tolist() == [3, 3]
    north, south = (float(sites.offset[number, 0].float().mean()) for number in (0, 1))
    assert south > max(north, 0) + 0.2, "the detector finds the grain of the south unusual"
    for name in ("site north", "site south"):
        assert int(network.judge_of(name).calibration.num_scans) == 2
        assert int(network.judge_of(name).regions.num_scans) == 2
    assert int(network.calibration.num_scans) == 4
    readme = (joined / "docs" / "README.md").read_text(encoding="utf-8")
    assert "The fitted scans are of the sites `north`, `south`, each with an offset" in readme
    assert "Groups by site are calibrated apart as well" in readme
    assert "follows the person's" not in readme


def test_a_scan_is_judged_by_its_site_and_a_stranger_by_the_cohort(
    joined: Path, scans: list[Path], table: Path, tmp_path: Path
) -> None:
    scan = _parted(scans)[2]
    stranger = tmp_path / "stranger.nii.gz"
    stranger.write_bytes(scan.read_bytes())
    rows = {row.name: row for row in infer(joined, [scan, stranger], tmp_path / "out", covariates=table).scans}
    own, other = rows[scan.name.removesuffix(".nii.gz")], rows["stranger"]
    assert own.score < other.score
    assert (own.covariates, own.group, own.smallest_p_value) == ("site south", "site south", 1 / 3)
    assert other.covariates == "site east not fitted: the cohort's mean"
    assert (other.group, other.smallest_p_value) == (None, 1 / 5)
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        told = [(row["covariates"], row["group"]) for row in csv.DictReader(file)]
    assert told == [(own.covariates, own.group), (other.covariates, "")]
    assert "site south, among site south" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (alone,) = infer(joined, [stranger], tmp_path / "alone", report=False).scans
    assert alone.covariates == "site not known: the cohort's mean"
    assert alone.score == other.score
    result = AnomalyModel.load(joined).predict(scan, covariates=str(table))
    assert (result.row.score, result.row.group) == (own.score, "site south")


def test_another_site_is_learnt_for_such_a_bundle_and_a_plain_update_is_refused(
    joined: Path, scans: list[Path], table: Path, tmp_path: Path
) -> None:
    new = [scan for scan in scans if scan.name.startswith("south_test")]
    with pytest.raises(ValueError, match=r"that does not tell sites apart, got one of north, south\. Fit anew"):
        fit(new, tmp_path / "refused", update=joined, covariates=table)
    assert not (tmp_path / "refused").exists()
    fit(new, tmp_path / "east", update=joined, site="east")
    network = _load(tmp_path / "east")
    assert read_settings(tmp_path / "east")["sites"] is None
    assert (network.covariates, network.groups) == ((), None)
    (row,) = infer(tmp_path / "east", new[:1], tmp_path / "out", report=False).scans
    assert (row.covariates, row.group) == (None, None)


def test_sites_and_ages_go_together_and_one_site_is_none(scans: list[Path], tiny_vit: Path, tmp_path: Path) -> None:
    train, held_out, scan = _parted(scans)
    states = []
    for sites in (("north", "south"), ("north", "north")):
        table = tmp_path / "people.csv"
        lines = [
            f"{one.name.removesuffix('.nii.gz')},{30 + 5 * number},{sites['south' in one.name]}"
            for number, one in enumerate([*train, *held_out, scan])
        ]
        table.write_text("\n".join(["name,age,site", *lines]) + "\n", encoding="utf-8")
        folder = tmp_path / sites[1]
        fit(train, folder, held_out, embedder_name=str(tiny_vit), covariates=table, **FAST)
        network = _load(folder)
        assert network.covariates == (("age", "site") if sites[1] == "south" else ("age",))
        assert isinstance(network.normative, TrendMap)
        states.append(network.normative._trend("scores").slopes)
    assert not torch.equal(*states), "each site has a mean of its own"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("{0},north\n{1},south\n", "groups of 2 held-out scans or more, got 1 of the group site north"),
        ("{0},north\n{1},@south\n", "has the site '@south' in line"),
        ("{0},north\n{1},south\n", "`covariates` must tell the fitted people apart, got 6 of whom no two differ"),
    ],
)
def test_refusals_are_one_line(
    scans: list[Path], tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str, reason: str
) -> None:
    train, held_out, _ = _parted(scans)
    one_each = [held_out[0], held_out[-1]]
    table = tmp_path / "people.csv"
    alone = "apart" in reason
    of_train = "".join(
        f"{one.name.removesuffix('.nii.gz')},{'north' if alone else one.name.split('_')[0]}\n" for one in train
    )
    named = lines.format(*(one.name.removesuffix(".nii.gz") for one in one_each))
    table.write_text(f"name,site\n{of_train}{named}", encoding="utf-8")
    command = ["fit", "--images", *train, "--held-out", *one_each, "--out", tmp_path / "bundle", "--embedder", tiny_vit]
    by = [] if alone else ["--group-by", "site"]
    assert main([*map(str, command), "--covariates", str(table), *by, "--image-size", "56"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert reason in errors[0]
    assert not (tmp_path / "bundle" / "fit" / "embeddings").exists(), "nothing was embedded"
