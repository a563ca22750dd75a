# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A second run into a folder of results leaves nothing there that looks like its own and is not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_dpmm_ad.bundle import load_workflow
from monai_dpmm_ad.commands import evaluate, infer, run
from monai_dpmm_ad.data.paths import scan_files
from monai_dpmm_ad.transforms import save
from monai_dpmm_ad.transforms.save import write_map
from monai_dpmm_ad.utils.files import replace_file
from monai_dpmm_ad.utils.outputs import OutputFolder


def test_no_map_of_an_earlier_scan_stays_where_the_new_one_fails(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "maps"
    scans.mkdir()
    for name in ("test_abnormal_000", "test_healthy_000"):
        shutil.copy(cohort.parent / "imagesTs" / f"{name}.nii.gz", scans)
    done = infer(bundle, str(scans), out, report=False)  # a path by itself is one path
    assert not done.failures
    before = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    edited, notes = out / "test_abnormal_000_mask.nii.gz", out / "notes.txt"
    edited.write_bytes(b"by hand")
    again = infer(bundle, [scans], out, report=False)  # the scan is as it was: nothing is removed, what is said holds
    assert [failure.name for failure in again.failures] == ["test_abnormal_000"]
    assert again.scans == done.scans
    assert [len(again.regions[row.name]) for row in again.scans] == [row.num_regions for row in done.scans]
    assert {path.name for path in out.glob("*.nii.gz")} == set(before)
    notes.write_text("mine")
    damaged = scans / "test_abnormal_000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    outcome = infer(bundle, [scans], out, report=False)
    assert [failure.name for failure in outcome.failures] == ["test_abnormal_000"]
    kept = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    assert kept.pop(edited.name) == b"by hand"
    assert kept == {name: content for name, content in before.items() if "healthy" in name}
    assert notes.read_text() == "mine"


def test_scans_of_other_settings_are_named_and_an_earlier_report_is_removed(
    cohort: Path, bundle: Path, tmp_path: Path
) -> None:
    scans = cohort.parent / "imagesTs"
    first = infer(bundle, scans / "test_abnormal_000.nii.gz", tmp_path)
    assert (tmp_path / "report.html").is_file()
    alike = infer(bundle, scans / "test_healthy_000.nii.gz", tmp_path)
    assert [str(outcome.note).count("are of earlier runs") for outcome in (first, alike)] == [0, 0]
    (tmp_path / "overview.png").write_bytes(b"by hand")
    other = infer(bundle, scans / "test_healthy_000.nii.gz", tmp_path, report=False, false_positive_rate=0.2)
    assert other.note is not None
    assert "1 scans in the tables are of earlier runs with another model or other settings: test_abnor" in other.note
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "overview.png").read_bytes() == b"by hand"


def test_a_refused_scan_leaves_the_results_of_another_one_of_its_name(
    cohort: Path, bundle: Path, tmp_path: Path
) -> None:
    out, one, two = (tmp_path / name for name in ("out", "one", "two"))
    for folder, name in ((one, "test_abnormal_000"), (two, "test_healthy_000")):
        folder.mkdir()
        shutil.copy(cohort.parent / "imagesTs" / f"{name}.nii.gz", folder / "T1.nii.gz")
    infer(bundle, one, out, report=False)
    before = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    tables = {name: (out / name).read_bytes() for name in ("scores.csv", "regions.csv", "regions.json")}
    refused = infer(bundle, two, out, report=False)
    assert "is of another scan" in refused.failures[0].reason
    assert refused.scans == []
    assert {path.name: path.read_bytes() for path in out.glob("*.nii.gz")} == before
    assert {name: (out / name).read_bytes() for name in tables} == tables


def test_a_relative_path_is_the_same_scan(
    cohort: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer(bundle, cohort.parent / "imagesTs", tmp_path, report=False)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if not path.name.startswith(".")}
    monkeypatch.chdir(cohort.parent)
    options = {"dataset_dir": "imagesTs", "output_dir": str(tmp_path)}
    with load_workflow(bundle, ["inference"], "inference", **options) as workflow:
        workflow.run()
    assert not workflow.failures
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if not path.name.startswith(".")} == before


def test_outputs_that_a_second_run_does_not_renew_go(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scan = tmp_path / "sub-01_T1w.nii.gz"
    shutil.copy(cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz", scan)
    datalist, out = tmp_path / "list.json", tmp_path / "out"
    mask = cohort.parent / "labelsTs" / "test_abnormal_000.nii.gz"
    datalist.write_text(json.dumps({"test": [{"image": str(scan), "label": str(mask)}]}))
    evaluate(bundle, datalist, out, report=False, bids=True)
    assert {"metrics.json", "metrics.csv"} <= set(os.listdir(out))
    sidecar = next(out.glob("bids/**/*desc-anomaly*.json"))
    told = sidecar.read_text()
    again = infer(bundle, scan, out, report=False, save_percentile=False, false_positive_rate=0.3)
    assert not again.failures
    left = set(os.listdir(out))
    assert not left & {"metrics.json", "metrics.csv", "sub-01_T1w_percentile.nii.gz"}
    assert {"sub-01_T1w_anomaly.nii.gz", "sub-01_T1w_mask.nii.gz"} <= left
    assert json.loads(sidecar.read_text()).keys() == json.loads(told).keys()
    assert sidecar.read_text() != told or again.scans[0].threshold is None


def test_an_earlier_scan_edited_by_hand_keeps_its_row(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scans = cohort.parent / "imagesTs"
    infer(bundle, scans / "test_abnormal_000.nii.gz", tmp_path, report=False)
    (tmp_path / "test_abnormal_000_mask.nii.gz").write_bytes(b"by hand")
    infer(bundle, scans / "test_healthy_000.nii.gz", tmp_path, report=False)
    rows = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["test_healthy_000", "test_abnormal_000"]
    for path in tmp_path.glob("test_abnormal_000_*"):
        path.unlink()
    infer(bundle, scans / "test_healthy_000.nii.gz", tmp_path, report=False)
    assert "test_abnormal_000" not in (tmp_path / "scores.csv").read_text()


def test_voxels_beside_a_header_are_part_of_the_scan(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    image = nib.load(cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz")
    values = np.asarray(image.dataobj, dtype=np.float32)
    header = tmp_path / "scan.hdr"
    nib.save(nib.Nifti1Pair(values, image.affine), header)
    first = infer(bundle, header, tmp_path / "out", report=False)
    values[values > 0] += 100 * np.random.default_rng(0).random((values > 0).sum(), dtype=np.float32)
    nib.save(nib.Nifti1Pair(values, image.affine), tmp_path / "other.hdr")
    (tmp_path / "other.img").replace(tmp_path / "scan.img")
    second = infer(bundle, header, tmp_path / "out", report=False)
    assert first.scans[0].score != second.scans[0].score


@pytest.mark.parametrize(
    ("name", "text", "beside"),
    [
        ("a.mhd", "ObjectType = Image\nElementDataFile = voxels.raw\n", "voxels.raw"),
        ("a.nhdr", "NRRD0004\ndata file: ./voxels.raw.gz\n", "voxels.raw.gz"),
        ("a.hdr", "", "a.img"),
    ],
)
def test_the_file_beside_a_header_is_found(name: str, text: str, beside: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert scan_files(tmp_path / name) == [tmp_path / name]
    (tmp_path / beside).write_bytes(b"voxels")
    assert scan_files(tmp_path / name) == [tmp_path / name, tmp_path / beside]


def test_a_new_atlas_in_the_old_ones_place_is_seen(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scan = cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz"
    image, out = nib.load(scan), tmp_path / "out"
    atlas, names = tmp_path / "atlas.nii.gz", tmp_path / "atlas.tsv"
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), atlas)
    found = []
    for label in ("one", "two"):
        names.write_text(f"index\tname\n1\t{label}\n")
        outcome = infer(bundle, scan, out, report=False, regions=str(atlas), false_positive_rate=0.1)
        found.append({region.anatomy for region in outcome.regions["test_abnormal_000"]})
    assert found == [{"one"}, {"two"}]


def test_small_regions_are_in_neither_table_nor_mask(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scan = cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz"
    plain = infer(bundle, scan, tmp_path / "all", report=False, false_positive_rate=0.1)
    sizes = sorted(region.size for region in plain.regions["test_abnormal_000"])
    assert len(sizes) > 1
    least = infer(
        bundle, scan, tmp_path / "large", report=False, false_positive_rate=0.1, min_region_volume=sizes[-1] - 1e-3
    )
    (row,) = least.scans
    mask = np.asarray(nib.load(tmp_path / "large" / "test_abnormal_000_mask.nii.gz").dataobj)
    size = abs(np.linalg.det(nib.load(scan).affine[:3, :3]))
    assert mask.sum() * size == pytest.approx(sizes[-1])
    assert row.num_regions == 1
    assert row.flagged == pytest.approx(sizes[-1] / 1000)


def test_a_mask_in_a_scan_called_normal_fails_alone(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scans, labels = cohort.parent / "imagesTs", cohort.parent / "labelsTs"
    entries = [
        {"image": str(scans / "test_healthy_000.nii.gz"), "abnormal": 0},
        {
            "image": str(scans / "test_abnormal_000.nii.gz"),
            "label": str(labels / "test_abnormal_000.nii.gz"),
            "abnormal": 0,
        },
    ]
    datalist = tmp_path / "list.json"
    datalist.write_text(json.dumps({"test": entries}))
    outcome = evaluate(bundle, datalist, tmp_path / "out", report=False)
    (failure,) = outcome.failures
    assert failure.path.endswith("labelsTs/test_abnormal_000.nii.gz")
    assert "calls normal" in failure.reason
    assert [row.name for row in outcome.scans] == ["test_healthy_000"]


def test_results_under_another_name_or_of_compare_stay(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scan, out = cohort.parent / "imagesTs" / "test_abnormal_000.nii.gz", tmp_path / "out"
    for name in ("p_01", "p"):
        datalist = tmp_path / f"{name}.json"
        datalist.write_text(json.dumps({"test": [{"image": str(scan), "name": name}]}))
        infer(bundle, datalist, out, report=False)
    made = {f"{name}_{kind}.nii.gz" for name in ("p_01", "p") for kind in ("anomaly", "mask", "percentile")}
    assert {path.name for path in out.glob("*.nii.gz")} == made
    with OutputFolder(out):  # as `compare` writes
        replace_file(out / "p_before_anomaly.nii.gz", lambda path: path.write_bytes(b"map"), owner=str(scan))
    infer(bundle, datalist, out, report=False, false_positive_rate=0.2)
    assert {path.name for path in out.glob("*.nii.gz")} == made | {"p_before_anomaly.nii.gz"}


def test_a_row_does_not_outlive_maps_that_an_evaluation_replaced(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    scans, labels = cohort.parent / "imagesTs", cohort.parent / "labelsTs"
    datalist = tmp_path / "list.json"
    entry = {"image": str(scans / "test_abnormal_000.nii.gz"), "label": str(labels / "test_abnormal_000.nii.gz")}
    datalist.write_text(json.dumps({"test": [entry]}))
    out = tmp_path / "out"
    infer(bundle, datalist, out, report=False)
    evaluate(bundle, datalist, out, report=False, false_positive_rate=0.2)
    infer(bundle, scans / "test_healthy_000.nii.gz", out, report=False)
    assert "test_abnormal_000" not in (out / "scores.csv").read_text()
    damaged = tmp_path / "test_abnormal_000.nii.gz"
    shutil.copy(entry["image"], damaged)
    datalist.write_text(json.dumps({"test": [{**entry, "image": str(damaged)}]}))
    again = tmp_path / "again"
    evaluate(bundle, datalist, again, report=False)
    damaged.write_bytes(damaged.read_bytes()[:200])
    outcome = infer(bundle, datalist, again, report=False)
    assert [failure.name for failure in outcome.failures] == ["test_abnormal_000"]
    assert not [*again.glob("*.nii.gz"), *again.glob("metrics.*")]


def test_a_run_that_dies_leaves_no_tables_and_figures_of_other_maps(
    cohort: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"scores.csv", "regions.csv", "metrics.csv", "metrics.json", "report.html", "overview.png"}
    evaluate(bundle, cohort, tmp_path)
    assert told <= set(os.listdir(tmp_path))
    write_json = run.write_json

    def die(path: Path, content: object) -> None:
        if path.name == "metrics.json":
            raise KeyboardInterrupt
        write_json(path, content)

    monkeypatch.setattr(run, "write_json", die)
    with pytest.raises(KeyboardInterrupt):  # between two files of an evaluation of the same maps
        evaluate(bundle, cohort, tmp_path)
    assert told - set(os.listdir(tmp_path)) == {"metrics.json"}
    monkeypatch.setattr(run, "write_json", write_json)
    evaluate(bundle, cohort, tmp_path)
    done: list[Path] = []

    def die_at_second(path: Path, *rest: object) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write_map(path, *rest)

    monkeypatch.setattr(save, "write_map", die_at_second)
    with pytest.raises(KeyboardInterrupt):
        infer(bundle, cohort, tmp_path, false_positive_rate=0.3)
    assert not told & set(os.listdir(tmp_path))
    monkeypatch.setattr(save, "write_map", write_map)
    assert len(infer(bundle, cohort, tmp_path, false_positive_rate=0.3).scans) == 4
    assert told - {"metrics.csv", "metrics.json"} <= set(os.listdir(tmp_path))


def test_figures_that_the_data_no_longer_allow_go(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    entries = json.loads(cohort.read_text())["test"]
    entries = [{**item, "image": str(cohort.parent / item["image"])} for item in entries]
    for item in entries:
        del item["label"]
    datalist = tmp_path / "list.json"
    for chosen in (entries, [item for item in entries if not item["abnormal"]]):
        datalist.write_text(json.dumps({"test": chosen}))
        evaluate(bundle, datalist, tmp_path / "out", report=False)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {}
    assert not (tmp_path / "out" / "metrics.csv").exists()
