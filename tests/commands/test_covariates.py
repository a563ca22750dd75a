# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A fit with a table of people, groups of their own, and what is said of a scan with and without such a table."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import FAST

from monai_dpmm_ad.bundle import load_workflow, read_settings
from monai_dpmm_ad.bundle.promises import judge_network, judge_people
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.compare import compare
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.normative.covariates import Design
from monai_dpmm_ad.normative.trend_map import TrendMap


def _scans(cohort: Path) -> tuple[list[Path], list[Path]]:
    """Scans to fit, and four to hold out."""
    train = sorted((cohort.parent / "imagesTr").glob("train_*.nii.gz"))
    others = sorted((cohort.parent / "imagesVal").glob("valid_*.nii.gz"))
    return train, [*others, *sorted((cohort.parent / "imagesTs").glob("*healthy*.nii.gz"))]


@pytest.fixture(scope="module")
def table(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "people.csv"
    train, held_out = _scans(cohort)
    lines = [
        f"{scan.name.removesuffix('.nii.gz')},{30 + 7 * number},{'FM'[number % 2]}"
        for number, scan in enumerate([*train, *held_out])
    ]
    path.write_text("\n".join(["name,age,sex", *lines, "test_abnormal_000,n/a,M"]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def joined(cohort: Path, tiny_vit: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that follows age and sex and is calibrated by sex."""
    folder = tmp_path_factory.mktemp("joined") / "bundle"
    train, held_out = _scans(cohort)
    options = {"embedder_name": str(tiny_vit), "covariates": table, "group_by": "sex", **FAST}
    outcome = fit(train, folder, held_out, **options)
    assert not outcome.failures
    return folder


def test_a_fit_learns_trends_and_a_calibration_of_each_group(joined: Path) -> None:
    with load_workflow(joined, ["inference"], "inference") as workflow:
        network = workflow.network
    assert isinstance(network.normative, TrendMap)
    assert network.covariates == ("age", "sex")
    assert all(int(network.normative._trend(part).num_scans) == 3 for part in ("intensity", "deviation", "scores"))
    for name in ("F", "M"):
        judge = network.judge_of(name)
        assert int(judge.calibration.num_scans) == int(judge.regions.num_scans) == 2
    assert int(network.judge_of(None).regions.num_scans) == 4
    settings = read_settings(joined)
    note = judge_network(network, {**settings, "false_regions": 1.0})
    assert note is not None
    assert note.count("or more; the group ") == 2, "two scans of a sex promise nothing, the four together do"
    assert "this bundle" not in note
    assert (settings["trend"], settings["group_by"], settings["covariates"]) == ("on", "sex", None)
    readme = (joined / "docs" / "README.md").read_text(encoding="utf-8")
    assert "follows the person's age and sex: give `infer` a table with `--covariates`." in readme
    assert "Groups by sex are calibrated apart" in readme
    assert "of the sites" not in readme


def test_ages_that_were_not_fitted_are_counted() -> None:
    design = Design()
    design.observe([{"age": age} for age in (21.0, 40.0, 53.0)])
    told = [design.describe({"age": age}) for age in (30.0, 99.0, None)]
    unknown, beyond = str(judge_people(told)).split("; ")
    assert unknown.startswith("1 of 3 scans are of people whose age, sex or site is not known")
    assert beyond.startswith("1 of 3 scans are of people outside of the fitted ages, so they are judged as the nearest")


def test_scores_say_what_was_known_of_each_person(joined: Path, cohort: Path, table: Path, tmp_path: Path) -> None:
    scans = [cohort.parent / "imagesTs" / f"{name}.nii.gz" for name in ("test_healthy_000", "test_abnormal_000")]
    told, alone = (
        {row.name: row for row in infer(joined, scans, tmp_path / name, report=name == "told", **options).scans}
        for name, options in (("told", {"covariates": table}), ("alone", {}))
    )
    assert told["test_healthy_000"].covariates == "age 65 (fitted 30 to 44), sex M"
    assert told["test_abnormal_000"].covariates == "age not known: the cohort's mean, sex M"
    assert [row.group for row in told.values()] == ["M", "M"]
    assert [row.smallest_p_value for row in told.values()] == [1 / 3, 1 / 3]
    for row in alone.values():
        assert row.covariates == "age not known: the cohort's mean, sex not known: the cohort's mean"
        assert row.group is None
        assert row.smallest_p_value == 1 / 5
    outcome = infer(joined, scans, tmp_path / "alone", report=False)
    assert "2 of 2 scans are of people whose age, sex or site is not known" in str(outcome.note)
    assert told["test_healthy_000"].score != alone["test_healthy_000"].score
    report = (tmp_path / "told" / "report.html").read_text(encoding="utf-8")
    assert "age 65 (fitted 30 to 44), sex M, among M" in report
    with (tmp_path / "told" / "scores.csv").open(newline="") as file:
        assert [row["group"] for row in csv.DictReader(file)] == ["M", "M"]


def test_participants_of_a_bids_data_set_are_the_table(joined: Path, cohort: Path, tmp_path: Path) -> None:
    root = tmp_path / "raw"
    (root / "sub-1" / "anat").mkdir(parents=True)
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    (root / "sub-1" / "anat" / "sub-1_T1w.nii.gz").write_bytes(scan.read_bytes())
    (root / "dataset_description.json").write_text("{}", encoding="utf-8")
    (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-1\t40\tF\n", encoding="utf-8")
    (row,) = infer(joined, [root], tmp_path / "out", report=False, participants=True).scans
    assert (row.covariates, row.group) == ("age 40, sex F", "F")


def test_python_gives_what_the_command_line_gives(joined: Path, cohort: Path, table: Path, tmp_path: Path) -> None:
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    (row,) = infer(joined, [scan], tmp_path / "out", report=False, covariates=table).scans
    result = AnomalyModel.load(joined).predict(scan, covariates=str(table))
    assert (result.row.score, result.row.group) == (row.score, "M")
    (tmp_path / "ages.csv").write_text("name,age\ntest_healthy_000,50\n", encoding="utf-8")
    with pytest.raises(ScanError, match="lacks the column sex; it has name, age"):
        AnomalyModel.load(joined).predict(scan, covariates=str(tmp_path / "ages.csv"))


def test_an_image_in_memory_has_the_row_of_its_name(joined: Path, cohort: Path, table: Path, tmp_path: Path) -> None:
    model, scan = AnomalyModel.load(joined), cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    image, name = nib.load(scan), "test_healthy_000"
    expected, result = model.predict(scan, covariates=table), model.predict(image, name=name, covariates=table)
    assert result.row == replace(expected.row, image="the image in memory")
    assert model.compare(image, image, name=name, covariates=table).covariates == (expected.row.covariates,) * 2
    with pytest.raises(ScanError, match="has no row for the scan nobody"):
        model.predict(image, name="nobody", covariates=table)
    (tmp_path / "image.csv").write_text("name,age,sex\nimage,50,F\n", encoding="utf-8")
    with pytest.raises(ValueError, match="`name` must be given for an image in memory, got None"):
        AnomalyModel.load(joined, covariates=tmp_path / "image.csv").predict(image)


def test_a_site_of_such_a_bundle_has_no_groups(joined: Path, cohort: Path, table: Path, tmp_path: Path) -> None:
    scans = _scans(cohort)[1][:3]
    fit(scans, tmp_path / "north", update=joined, site="north", covariates=table)
    (row,) = infer(tmp_path / "north", scans[:1], tmp_path / "out", report=False, covariates=table).scans
    assert (row.group, row.smallest_p_value) == (None, 1 / 4)
    assert row.covariates == "age 51 (fitted 30 to 44), sex M"


def test_two_visits_are_judged_with_the_table(joined: Path, cohort: Path, table: Path, tmp_path: Path) -> None:
    scan, other = (cohort.parent / "imagesTs" / f"test_healthy_00{number}.nii.gz" for number in (0, 1))
    outcome = compare(joined, tmp_path, before=[scan], after=[scan], healthy=[other], covariates=table)
    assert not outcome.failures
    assert outcome.pairs[0]["new"] == outcome.pairs[0]["gone"] == 0
    assert outcome.pairs[0]["covariates"] == "age 65 (fitted 30 to 44), sex M"
    assert "the cohort's mean" not in str(outcome.note)
    assert "1 of 1 scans are of people outside of the fitted ages" in str(outcome.note)
    (told,) = infer(joined, [scan], tmp_path / "told", report=False, covariates=table).scans
    ours, theirs = (
        nib.load(path).get_fdata()
        for path in (
            tmp_path / "test_healthy_000_before_anomaly.nii.gz",
            tmp_path / "told" / f"{told.name}_anomaly.nii.gz",
        )
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    stranger = tmp_path / "stranger.nii.gz"
    stranger.write_bytes(scan.read_bytes())
    with pytest.raises(ScanError, match="has no row for the scan stranger"):
        compare(joined, tmp_path / "refused", before=[stranger], after=[scan], covariates=table)


def test_the_trend_is_off_where_nobody_asks(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    (row,) = infer(bundle, [scan], tmp_path / "out", report=False).scans
    assert row.covariates is None
    assert row.group is None
    assert read_settings(bundle)["trend"] == "off"


def test_an_update_adds_to_the_trends(joined: Path, cohort: Path, table: Path, tmp_path: Path) -> None:
    new = sorted((cohort.parent / "imagesTs").glob("*abnormal*.nii.gz"))[:1]
    people = tmp_path / "people.csv"
    people.write_text(table.read_text().replace("n/a", "52"), encoding="utf-8")
    fit(new, tmp_path / "new", update=joined, covariates=people)
    with load_workflow(tmp_path / "new", ["inference"], "inference") as workflow:
        after = workflow.network
    with load_workflow(joined, ["inference"], "inference") as workflow:
        before = workflow.network
    assert int(after.normative._trend("intensity").num_scans) == 4
    assert (after.design.age == before.design.age).all()
    # A single new scan tells nothing of slopes, since it has a mean of its own.
    slopes = [network.normative._trend("intensity").slopes.float() for network in (before, after)]
    np.testing.assert_allclose(slopes[1], slopes[0], atol=5e-3)
    with pytest.raises(ValueError, match="`covariates` must be given for an update of a bundle that was fitted with"):
        fit(new, tmp_path / "refused", update=joined)


@pytest.mark.parametrize(
    ("table_text", "options", "reason"),
    [
        ("name,age\ntrain_000,30\n", [], "has no row for the scan train_001"),
        ("name,weight\ntrain_000,30\n", [], "lacks the column age or sex or site; it has name, weight"),
        (None, ["--normative", "off"], "`covariates` must be left out where maps are not judged by place"),
        (None, ["--group-by", "sex"], "groups of 2 held-out scans or more, got 1 of the group"),
    ],
)
def test_refusals_of_a_fit_are_one_line(
    cohort: Path,
    tiny_vit: Path,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    table_text: str | None,
    options: list[str],
    reason: str,
) -> None:
    if table_text is not None:
        (tmp_path / "people.csv").write_text(table_text, encoding="utf-8")
        table = tmp_path / "people.csv"
    command = ["fit", "--images", cohort, "--out", tmp_path / "bundle", "--embedder", tiny_vit, "--covariates", table]
    assert main([*map(str, [*command, "--image-size", "56", *options])]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert reason in errors[0]


def test_refusals_of_a_run_are_one_line(
    bundle: Path, joined: Path, cohort: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = cohort.parent / "imagesTs" / "test_abnormal_001.nii.gz"
    (tmp_path / "ages.csv").write_text("name,age\ntest_abnormal_001,50\n", encoding="utf-8")
    for model, people, reason in (
        (joined, table, "has no row for the scan test_abnormal_001"),
        (joined, tmp_path / "ages.csv", "lacks the column sex; it has name, age"),
        (bundle, table, "must be left out of a bundle that was fitted without"),
    ):
        command = ["infer", "--bundle", model, "--images", scan, "--out", tmp_path / "out", "--covariates", people]
        assert main([*map(str, command), "--no-report"]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert reason in line
