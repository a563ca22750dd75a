# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""``compare``: files, tables and one line for what is refused; what it finds is tested in tests/normative."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.dicom_series import write_series

from monai_dpmm_ad import AnomalyModel
from monai_dpmm_ad.commands import healthy_pairs, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.columns import pairs_table
from monai_dpmm_ad.commands.compare import MAPS, compare
from monai_dpmm_ad.commands.healthy_pairs import find_healthy, observe_healthy
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers.changes import KINDS
from monai_dpmm_ad.utils.files import LOCK


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def visits(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people in two folders; nobody has changed but for a bright ball in the first, in other units."""
    folder = tmp_path_factory.mktemp("visits")
    for number, source in enumerate(sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))[:2]):
        scan = nib.load(source)
        values = np.asarray(scan.dataobj, dtype=np.float32)
        for visit in ("before", "after"):
            if visit == "after" and number == 0:
                middle = [size // 2 for size in values.shape]
                values[tuple(slice(m - 2, m + 2) for m in middle)] = 2 * values.max()
                values *= 1000
            path = folder / visit / f"sub-{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(values, scan.affine), path)
    return folder


@pytest.fixture(scope="module")
def compared(bundle: Path, visits: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared")
    (visits / "after" / "sub-7.nii.gz").write_bytes((visits / "after" / "sub-1.nii.gz").read_bytes())
    healthy = [cohort.parent / "imagesVal" / "valid_000.nii.gz", visits / "damaged.nii.gz", visits / "none.nii.gz"]
    healthy[1].write_bytes(b"no volume")
    folders = ["--before", visits / "before", "--after", visits / "after", "--healthy", *healthy, "--out", out]
    assert main(["compare", "--bundle", str(bundle), *map(str, folders)]) == 1, "one visit has no partner"
    return out


def test_what_changed_is_in_files_on_the_first_visit_s_grid(compared: Path, visits: Path) -> None:
    first = nib.load(visits / "before" / "sub-0.nii.gz")
    for postfix in ("change", "changed", "before_anomaly", "after_anomaly"):
        image = nib.load(compared / f"sub-0_{postfix}.nii.gz")
        assert image.shape == first.shape
        np.testing.assert_allclose(image.affine, first.affine)
    assert np.abs(nib.load(compared / "sub-1_change.nii.gz").get_fdata()).max() < 3, "the very same scan"
    assert not nib.load(compared / "sub-1_changed.nii.gz").get_fdata().any()
    assert set(np.unique(nib.load(compared / "sub-0_changed.nii.gz").dataobj)) <= {0, 1, 2}, "nothing went away"
    assert (compared / "changes.png").stat().st_size > 1000


def test_tables_have_every_pair_and_region(compared: Path) -> None:
    one, two = read(compared / "pairs.csv")
    assert [one["name"], two["name"]] == ["sub-0", "sub-1"]
    assert [int(two[kind]) for kind in KINDS] == [0, 0, 0, 0]
    regions, listed = read(compared / "changes.csv"), json.loads((compared / "changes.json").read_text())
    assert len(regions) == len(listed["sub-0"]) == sum(int(one[kind]) for kind in KINDS)
    assert {float(region["p_value"]) for region in regions} <= {0.5, 1.0}, "one healthy pair"
    assert listed["sub-1"] == []
    healthy = json.loads((compared / "healthy_pairs.json").read_text())
    assert (healthy["kind"], len(healthy["peaks"])) == ("simulated repeats", 1)
    alone, missing, damaged = read(compared / "failures.csv")
    assert alone["reason"] == "has no first visit of the same subject, sub-7"
    assert (missing["name"], missing["reason"]) == ("none.nii.gz", "no such file or folder"), "the others still count"
    assert Path(damaged["path"]).name == "damaged.nii.gz"
    assert damaged["reason"].startswith("cannot be read")


def test_a_visit_outside_of_what_was_fitted_is_marked(compared: Path) -> None:
    one, two = read(compared / "pairs.csv")
    assert one["warning"].startswith("Second visit: This scan is unlike those that were fitted"), "it has other units"
    assert [(pair["in_range"], bool(pair["warning"])) for pair in (one, two)] == [("False", True), ("True", False)]
    regions = read(compared / "changes.csv")
    assert regions
    assert {(region["in_range"], region["q_value"]) for region in regions} == {("False", "")}
    listed = json.loads((compared / "changes.json").read_text())["sub-0"]
    assert {region["region"]["in_range"] for region in listed} == {False}
    pair = {"name": "a", **dict.fromkeys(KINDS, 1), "region_p_value": 0.25}
    shown = [pairs_table([{**pair, "in_range": known}]).columns[-1]._cells[0] for known in (True, False, None)]
    assert shown == ["0.250", "0.250 ?", "0.250"]


def test_healthy_scans_are_new_and_healthy(
    bundle: Path, cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(UserWarning, match="3 scans are in the bundle already and left out"):
        found, missing = find_healthy([cohort], bundle, {})
    assert {item["name"] for item in found} == {"valid_000", "valid_001", "test_healthy_000", "test_healthy_001"}
    assert missing == []
    assert "2 scans of --healthy are marked abnormal" in caplog.text
    none = pytest.raises(ValueError, match="`healthy` must hold healthy scans that were not fitted, got none")
    with pytest.warns(UserWarning, match="in the bundle already"), none:
        find_healthy([cohort.parent / "imagesTr"], bundle, {})
    with pytest.raises(ScanError, match="nowhere: no such file or folder"):
        find_healthy([tmp_path / "nowhere"], bundle, {})


def test_no_usable_healthy_scan_ends_the_command_before_the_pairs(
    bundle: Path, visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    words = ["--before", visits / "before", "--after", visits / "after", "--healthy", tmp_path / "a.nii.gz"]
    assert main([*map(str, ["compare", "--bundle", bundle, *words, "--out", tmp_path / "out"])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'a.nii.gz'}: cannot be read")
    assert line.endswith("(no healthy scan could be used)")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK], "nor is anything temporary left"


def test_healthy_people_with_two_visits_count_alone_and_it_is_said(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"name": n, "image": f"/{n}/{v}.nii", "subject": n} for n, v in (("a", 1), ("a", 2), ("b", 1), ("c", 1))]
    monkeypatch.setattr(healthy_pairs, "_observe_pair", lambda *_: np.array([3.0]))
    note = observe_healthy(AnomalyModel.load(bundle), items, tmp_path)[1]
    assert note.startswith(
        "p-values are not below 0.5, since 1 healthy pairs give them; of 3 healthy people 1 have two v"
    )


def test_a_pair_fails_alone(bundle: Path, visits: Path, tmp_path: Path) -> None:
    rows = [("a", "sub-1"), ("b", "sub-1"), ("c", "nobody")]
    lines = [f"{name},{visits}/before/sub-1.nii.gz,{visits}/after/{after}.nii.gz" for name, after in rows]
    scan = nib.load(visits / "before" / "sub-1.nii.gz")
    nib.save(scan.slicer[:, :, 3:6], thin := tmp_path / "thin.nii.gz")
    (tmp_path / "both.csv").write_text("\n".join(["name,before,after", *lines, f"d,{thin},{thin}"]))
    (tmp_path / "a_changed.nii.gz").write_text("mine")
    words = ["--table", tmp_path / "both.csv", "--out", tmp_path]
    assert main([*map(str, ["compare", "--bundle", bundle, *words])]) == 1
    failed = {row["name"]: Path(row["path"]).name for row in read(tmp_path / "failures.csv")}
    assert failed == {"a": "a_changed.nii.gz", "c": "nobody.nii.gz", "d": "thin.nii.gz"}
    assert (tmp_path / "a_changed.nii.gz").read_text() == "mine"
    assert [pair["name"] for pair in read(tmp_path / "pairs.csv")] == ["b"]


def test_a_pair_that_fails_later_does_not_look_done(
    bundle: Path, visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes((visits / "before" / "sub-1.nii.gz").read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "both.csv").write_text(f"name,before,after\na,{scan},{scan}\nb,b.nii.gz,b.nii.gz\n")
    words = ["--table", tmp_path / "both.csv", "--out", tmp_path / "out"]
    command = [*map(str, ["compare", "--bundle", bundle, *words])]
    assert main(command) == 0
    (tmp_path / "out" / "a_changed.nii.gz").write_text("mine")
    scan.write_bytes(b"damaged")
    assert main([*command, "--overwrite"]) == 1
    assert [row["name"] for row in read(tmp_path / "out" / "failures.csv")] == ["a"]
    maps = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert maps == {"a_changed.nii.gz"} | {f"b_{postfix}.nii.gz" for postfix in MAPS}
    assert (tmp_path / "out" / "a_changed.nii.gz").read_text() == "mine"


def test_paths_may_be_relative(bundle: Path, visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(visits)
    words = ["--before", "before/sub-1.nii.gz", "--after", "after/sub-1.nii.gz", "--out", str(tmp_path / "out")]
    assert main(["compare", "--bundle", str(bundle), *words]) == 0
    assert read(tmp_path / "out" / "pairs.csv")[0]["name"]


def test_in_python(bundle: Path, visits: Path) -> None:
    pair = AnomalyModel.load(bundle).compare(visits / "before" / "sub-1.nii.gz", visits / "after" / "sub-1.nii.gz")
    assert pair.regions == []
    assert pair.count() == dict.fromkeys(KINDS, 0)
    assert (
        pair.change.shape == pair.mask.shape == pair.after_map.shape == nib.load(visits / "before/sub-1.nii.gz").shape
    )


def test_dicom_visits(
    bundle: Path,
    visits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    scan = nib.load(visits / "before" / "sub-1.nii.gz")
    values = np.asarray(scan.dataobj, dtype=np.float32)
    huge = scan.affine @ np.diag([3.0, 3.0, 3.0, 1.0])  # outside of what was fitted
    for name, seed in (("one", 1), ("two", 2), ("three", 1)):
        write_series(tmp_path / name, 1000 * values / values.max(), huge, seed=seed, prefix=name)
    command = ["compare", "--bundle", bundle, "--before", tmp_path / "one", "--after"]
    assert main([*map(str, [*command, tmp_path / "two", "--out", tmp_path / "other"])]) == 1
    assert "is of another person, patient P2, than the first visit" in capsys.readouterr().err
    assert main([*map(str, [*command, tmp_path / "three", "--out", tmp_path / "same", "--dicom"])]) == 0
    (path,) = (tmp_path / "same").glob("*_changed.dcm")
    written = pydicom.dcmread(path)
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == ["New", "Grown", "Shrunk", "Gone"]
    assert written.SeriesDescription == "Anomaly mask, OUTSIDE OF WHAT WAS FITTED"

    def refuse(path: Path, *rest: object) -> None:
        raise ScanError(path, "is an enhanced multi-frame file, to which DICOM outputs do not refer yet")

    monkeypatch.setattr("monai_dpmm_ad.transforms.save_dicom.save_segmentation", refuse)
    assert main([*map(str, [*command, tmp_path / "three", "--out", tmp_path / "extra", "--dicom"])]) == 0
    (pair,) = read(tmp_path / "extra" / "pairs.csv")
    assert "No DICOM mask was written: " in pair["warning"]
    assert pair["warning"].endswith("is an enhanced multi-frame file, to which DICOM outputs do not refer yet.")
    assert len(list((tmp_path / "extra").glob("*.nii.gz"))) == 4


def test_pictures_are_refused_before_they_are_mapped(picture_bundle: Path, visits: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`bundle` must be fitted on volumes, got one of pictures"):
        compare(picture_bundle, tmp_path / "out", [visits / "before"], [visits / "after"])


def test_what_is_refused_is_one_line(
    bundle: Path, visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("before,later\n")
    (tmp_path / "none.csv").write_text("before,after\na.nii,b.nii\n")
    for options, message in [
        (["--before", visits / "before"], "error: `before` and `after` must be given both, or `table` alone."),
        (["--table", tmp_path / "pairs.csv"], f"error: {tmp_path / 'pairs.csv'}: lacks the column after"),
        (["--table", tmp_path / "none.csv"], f"error: {tmp_path / 'a.nii'}: no such file or folder (no pair is left)"),
        (["--table", tmp_path / "pairs.csv", "--before", "a"], "error: `before` and `after` must be given both"),
        (
            ["--before", visits / "before", "--after", visits / "after", "--false-regions", 2],
            "error: `false_regions` must",
        ),
    ]:
        out = tmp_path / "out"
        assert main([*map(str, ["compare", "--bundle", bundle, "--out", out, *options])]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(message)


def test_several_participants_are_chosen_and_healthy_people_are_others(
    bundle: Path, visits: Path, tmp_path: Path
) -> None:
    study, healthy = tmp_path / "study", tmp_path / "healthy"
    healthy.mkdir()
    for person in (0, 1):
        for session, visit in (("a", "before"), ("b", "after")):
            path = study / f"sub-{person}" / f"ses-{session}" / "anat" / f"sub-{person}_ses-{session}_T1w.nii.gz"
            path.parent.mkdir(parents=True)
            path.write_bytes((visits / visit / "sub-1.nii.gz").read_bytes())
    scan = nib.load(visits / "before" / "sub-1.nii.gz")
    nib.save(nib.Nifti1Image(1.01 * scan.get_fdata(dtype=np.float32), scan.affine), healthy / "sub-9_T1w.nii.gz")
    words = ["--before", study, "--session", "a", "b", "--participant-label", "0", "1", "--healthy", healthy]
    assert main([*map(str, ["compare", "--bundle", bundle, *words, "--out", tmp_path / "out"])]) == 0
    assert [pair["name"] for pair in read(tmp_path / "out" / "pairs.csv")] == ["sub-0", "sub-1"]
    assert len(json.loads((tmp_path / "out" / "healthy_pairs.json").read_text())["peaks"]) == 1


def test_maps_of_pairs_that_are_not_compared_again_go(bundle: Path, visits: Path, tmp_path: Path) -> None:
    out, people = tmp_path / "out", [tmp_path / f"sub-{number}_T1w.nii.gz" for number in (1, 2)]
    for path in people:
        path.write_bytes((visits / "before" / "sub-1.nii.gz").read_bytes())
    infer(bundle, people[0], out, report=False)
    for path, options in zip(people, ({"bids": True}, {}), strict=True):
        assert not compare(bundle, out, path, path, **options).failures
        (out / "sub-1_changed.nii.gz").unlink(missing_ok=True)  # a derivative may be a link to it
        (out / "sub-1_changed.nii.gz").write_bytes(b"mine")
    made = {f"sub-2_{postfix}.nii.gz" for postfix in MAPS} | {"sub-1_changed.nii.gz"}
    made |= {f"sub-1_T1w_{kind}.nii.gz" for kind in ("anomaly", "mask", "percentile")}
    assert {path.name for path in out.glob("*.nii.gz")} == made
    assert {path.name[:5] for path in out.rglob("*desc-change*")} == {"sub-2"}, "derivatives are renewed unasked"
    assert not (out / "bids" / "sub-1").exists()
