# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import csv
import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import FAST
from PIL import Image

from monai_dpmm_ad.bundle import describe_fit
from monai_dpmm_ad.commands import Outcome, evaluate, fit, infer
from monai_dpmm_ad.commands.checks import check_writable
from monai_dpmm_ad.commands.cli import _say_fitted, _say_scans, main
from monai_dpmm_ad.handlers import ScanRow
from monai_dpmm_ad.utils.log import logging_to

pytestmark = pytest.mark.filterwarnings("default")  # the command line prints warnings in its own way


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out, err


@pytest.fixture
def scan(cohort: Path) -> nib.Nifti1Image:
    return nib.load(cohort.parent / "imagesTs" / "test_healthy_000.nii.gz")


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def truncate(path: Path, scan: nib.Nifti1Image) -> Path:
    nib.save(scan, path)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def with_nan(scan: nib.Nifti1Image) -> np.ndarray:
    data = scan.get_fdata(dtype=np.float32).copy()
    data[tuple(size // 2 for size in data.shape)] = np.nan
    return data


def singular(path: Path, scan: nib.Nifti1Image) -> Path:
    image = nib.Nifti1Image(scan.get_fdata(dtype=np.float32), None)
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = (1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0)
    nib.save(image, path)
    return path


def text_file(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


BAD: dict[str, tuple[Callable[[Path, nib.Nifti1Image], Path], str]] = {
    "not an image": (lambda d, s: text_file(d / "bad.nii.gz", "hello"), "bad.nii.gz"),
    "not a gzip": (lambda d, s: text_file(d / "bad.nii", "hello" * 200), "bad.nii"),
    "empty": (lambda d, s: text_file(d / "bad.nii.gz", ""), "empty"),
    "truncated gzip": (lambda d, s: truncate(d / "bad.nii.gz", s), "bad.nii.gz"),
    "4D": (lambda d, s: save(d / "bad.nii.gz", np.arange(1536, dtype=np.float32).reshape(8, 8, 8, 3)), "bad.nii.gz"),
    "NaN": (lambda d, s: save(d / "bad.nii.gz", with_nan(s), s.affine), "NaN"),
    "infinite": (
        lambda d, s: save(d / "bad.nii.gz", np.where(s.get_fdata() > 0, np.inf, 0).astype(np.float32), s.affine),
        "infinite",
    ),
    "constant": (lambda d, s: save(d / "bad.nii.gz", np.full((9, 9, 9), 7, np.float32)), "constant"),
    "singular affine": (lambda d, s: singular(d / "bad.nii.gz", s), "affine"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_scan_is_named_and_the_others_are_done(
    kind: str, bundle: Path, scan: nib.Nifti1Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = BAD[kind]
    bad = make(tmp_path, scan)
    nib.save(scan, tmp_path / "good.nii.gz")
    out = tmp_path / "out"
    status, _, err = run(capsys, "infer", "--bundle", bundle, "--images", tmp_path, "--out", out, "--no-report")
    assert status == 1
    lines = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1
    assert str(bad) in lines[0]
    assert message in lines[0]
    with open(out / "failures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(bad)]
    assert rows[0]["reason"]
    assert (out / "good_anomaly.nii.gz").is_file()
    assert not (out / "bad_anomaly.nii.gz").exists()


def test_one_slice_is_processed(bundle: Path, scan: nib.Nifti1Image, tmp_path: Path) -> None:
    data = scan.get_fdata(dtype=np.float32)[:, :, 3:4]
    path = save(tmp_path / "slice.nii.gz", data, scan.affine)
    assert not infer(bundle, [path], tmp_path / "out", report=False).failures
    assert nib.load(tmp_path / "out" / "slice_anomaly.nii.gz").shape == data.shape


def test_a_mask_of_another_shape_fails_its_scan_only(bundle: Path, scan: nib.Nifti1Image, tmp_path: Path) -> None:
    nib.save(scan, tmp_path / "a.nii.gz")
    nib.save(scan, tmp_path / "b.nii.gz")
    mask = save(tmp_path / "label.nii.gz", np.ones((3, 3, 3), np.uint8))
    items = [{"image": "a.nii.gz", "label": mask.name}, {"image": "b.nii.gz"}]
    (tmp_path / "list.json").write_text(json.dumps({"test": items}))
    outcome = infer(bundle, [tmp_path / "list.json"], tmp_path / "out", report=False)
    assert [failure.name for failure in outcome.failures] == ["a"]
    assert "shape" in outcome.failures[0].reason
    assert [row.name for row in outcome.scans] == ["b"]


def test_an_empty_folder_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "infer", "--bundle", bundle, "--images", tmp_path, "--out", tmp_path / "out")
    assert status == 1
    assert str(tmp_path) in err
    assert len(err.splitlines()) == 1


WRONG = {
    "no such path": (["--images", "/no/such/scan.nii.gz"], "/no/such/scan.nii.gz"),
    "rate": (["--rate", "7"], "rate"),
    "device": (["--device", "abacus"], "abacus"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_options_are_one_clear_line(
    kind: str, bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = WRONG[kind]
    images = [] if "--images" in arguments else ["--images", cohort]
    status, _, err = run(capsys, "infer", "--bundle", bundle, *images, "--out", tmp_path, *arguments)
    assert status == 1
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embedder", "compct"], "Did you mean 'compact'"),
        (["--embedder", "/no/such/folder"], "/no/such/folder"),
        (["--covariance", "diagnal"], "Did you mean 'diagonal'"),
        (["--detector", "dpm"], "Did you mean 'dpmm'"),
        (["--detector-option", "colour=1"], "option of dpmm"),
        (["--patch-mask", "pc"], "Did you mean 'pca'"),
        (["--score", "cosin"], "Did you mean 'cosine'"),
        (["--intensity", "medan"], "Did you mean 'median'"),
        (["--axes", "axal"], "Did you mean 'axial'"),
        (["--image-size", "3"], "image_size"),
        (["--num-components", "0"], "num_components"),
        (["--patch-fraction", "2"], "patch_fraction"),
    ],
)
def test_wrong_options_of_a_fit(
    arguments: list[str], message: str, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "fit", "--images", cohort, "--out", tmp_path / "bundle", *arguments)
    assert status == 1
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


def test_no_bundle_is_refused(tmp_path: Path, cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "infer", "--bundle", tmp_path, "--images", cohort, "--out", tmp_path / "out")
    assert (status, err.count("\n")) == (1, 1)
    assert "no bundle" in err


def test_a_damaged_model_is_refused(
    bundle: Path, tmp_path: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    for folder in ("configs", "models"):
        (copy / folder).mkdir(parents=True)
        for file in (bundle / folder).iterdir():
            (copy / folder / file.name).write_bytes(file.read_bytes())
    model = copy / "models" / "model.pt"
    model.write_bytes(model.read_bytes()[:1000])
    status, _, err = run(capsys, "infer", "--bundle", copy, "--images", cohort, "--out", tmp_path / "out")
    assert (status, err.count("\n")) == (1, 1)
    assert "model.pt" in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named(bundle: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import monai_dpmm_ad.transforms.save as save_module

    def full(source: str, *rest: object) -> None:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    monkeypatch.setattr(save_module, "_on_grid_of", full)
    outcome = infer(bundle, [cohort], tmp_path / "out", report=False)
    assert len(outcome.failures) == 4
    assert all("No space left" in failure.reason for failure in outcome.failures)
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert not list((tmp_path / "out").glob(".partial*"))


def test_a_disk_that_is_full_from_the_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")  # as the kernel says it of a write: without a name

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="No space left on device") as caught:
        check_writable(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_names_stay_whole_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "sub-01_ses-baseline_acq-highres_run-2_T1w_of_a_very_long_series_description_3"
    row = ScanRow(name, "a.nii", 1.0, p_value=0.5, flagged=1.0, num_regions=3, frame="deformed")
    with logging_to():
        _say_scans(Outcome([row]), "out")
    shown = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(shown) == name


def test_a_read_only_folder_is_named(
    bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Root may write anywhere, so a file stands where the folder should be made.
    blocked = text_file(tmp_path / "file", "")
    status, _, err = run(capsys, "infer", "--bundle", bundle, "--images", cohort, "--out", blocked / "out")
    assert (status, err.count("\n")) == (1, 1)
    assert str(blocked) in err


def test_a_fit_leaves_out_bad_scans_and_says_so(
    cohort: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(3):
        (folder / f"case_{number}.nii.gz").write_bytes(
            (cohort.parent / "imagesTr" / f"train_00{number}.nii.gz").read_bytes()
        )
    bad = text_file(folder / "case_9.nii.gz", "hello")
    outcome = fit([folder], tmp_path / "bundle", embedder_name=str(tiny_vit), **FAST)
    assert [failure.path for failure in outcome.failures] == [str(bad)]
    assert (tmp_path / "bundle" / "models" / "model.pt").is_file()
    assert str(bad) in (tmp_path / "bundle" / "failures.csv").read_text()


def test_an_interrupted_fit_continues(cohort: Path, tiny_vit: Path, tmp_path: Path, bundle: Path) -> None:
    import torch

    copy = tmp_path / "bundle"
    fit([cohort], copy, embedder_name=str(tiny_vit), **FAST)
    (copy / "models" / "model.pt").unlink()
    fit([cohort], copy, embedder_name=str(tiny_vit), **FAST)
    first, second = (torch.load(folder / "models" / "model.pt", weights_only=True) for folder in (bundle, copy))
    assert all(torch.equal(first[name], second[name]) for name in first)


def save_pictures(folder: Path, scan: nib.Nifti1Image) -> np.ndarray:
    pixels = scan.get_fdata()[:, :, 3]
    pixels = (255 * pixels / pixels.max()).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "slice.png")
    Image.fromarray(pixels).convert("RGB").save(folder / "photo.jpg")
    return pixels


def test_pictures_are_no_scans_for_a_bundle_of_volumes(
    bundle: Path, scan: nib.Nifti1Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pictures(tmp_path, scan)
    arguments = ("infer", "--bundle", bundle, "--no-report", "--out", tmp_path / "out", "--images")
    status, _, err = run(capsys, *arguments, tmp_path / "slice.png")
    assert (status, "is a 2D picture; this bundle was fitted on 3D scans" in err) == (1, True)
    nib.save(scan, tmp_path / "volume.nii.gz")
    status, out, _ = run(capsys, *arguments, tmp_path)
    assert status == 0
    assert "took 1 scan, left out 2: 2 pictures among volumes" in out
    with open(tmp_path / "out" / "left_out.csv", newline="") as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == ["photo.jpg", "slice.png"]


def test_pictures_in_pictures_out(picture_bundle: Path, scan: nib.Nifti1Image, tmp_path: Path) -> None:
    pixels = save_pictures(tmp_path, scan)
    outcome = infer(picture_bundle, [tmp_path], tmp_path / "out", report=False)
    assert not outcome.failures
    assert [row.flagged_unit for row in outcome.scans] == ["pixels", "pixels"]
    for name in ("slice", "photo"):
        anomaly, mask = (read_picture(tmp_path / "out" / f"{name}_{kind}.png") for kind in ("anomaly", "mask"))
        assert anomaly.shape == pixels.shape
        assert mask.dtype == np.uint8
        assert np.array_equal(mask > 0, anomaly > 32767)  # mid-grey is the threshold
        percentile = read_picture(tmp_path / "out" / f"{name}_percentile.png")
        assert np.array_equal(percentile > 0, anomaly > 0)
        assert percentile[anomaly == anomaly.max()].min() == percentile.max()


def test_a_missing_matplotlib_is_told(
    bundle: Path, scan: nib.Nifti1Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    nib.save(scan, tmp_path / "a.nii.gz")
    monkeypatch.setattr("monai_dpmm_ad.commands.run.find_spec", lambda name: None)
    status, _, err = run(
        capsys, "infer", "--bundle", bundle, "--images", tmp_path / "a.nii.gz", "--out", tmp_path / "out"
    )
    assert status == 0
    assert "pip install 'monai-dpmm-ad[report]'" in err
    assert not (tmp_path / "out" / "report.html").exists()


def test_evaluate_writes_figures_and_report(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    outcome = evaluate(bundle, [cohort], tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    keys = [
        "image_auroc",
        "image_aupr",
        "pixel_auroc",
        "pixel_aupr",
        "aupro",
        "best_dice",
        "dice_fpr10",
        "dice_fpr05",
        "dice_fpr01",
    ]
    assert set(keys) <= set(metrics)
    assert {f"{key}_foreground" for key in keys[2:]} <= set(metrics)
    assert all(0 <= metrics[key] <= 1 for key in keys)
    assert len(metrics["pixel_auroc_ci"]) == 2
    assert "are guaranteed with 3 held-out healthy scans" in (outcome.note or "")
    assert sorted(row.abnormal for row in outcome.scans) == [0, 0, 1, 1]
    assert outcome.report == tmp_path / "report.html"
    assert "not a medical device" in outcome.report.read_text()
    assert (tmp_path / "overview.png").is_file()
    assert (tmp_path / "metrics.csv").is_file()


def test_classes_without_masks_are_evaluated_at_image_level(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    entries = json.loads(cohort.read_text())["test"]
    items = [{"image": str(cohort.parent / item["image"]), "abnormal": item["abnormal"]} for item in entries]
    (tmp_path / "classes.json").write_text(json.dumps({"test": items}))
    outcome = evaluate(bundle, [tmp_path / "classes.json"], tmp_path / "out", report=False)
    assert {"image_auroc", "image_aupr"} <= set(outcome.metrics)
    assert "pixel_auroc" not in outcome.metrics


def test_figures_that_the_data_do_not_allow_are_absent(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    healthy = {"test": [item for item in json.loads(cohort.read_text())["test"] if not item["abnormal"]]}
    for item in healthy["test"]:
        item["image"] = str(cohort.parent / item["image"])
        item.pop("label")
    (tmp_path / "healthy.json").write_text(json.dumps(healthy))
    outcome = evaluate(bundle, [tmp_path / "healthy.json"], tmp_path / "out", report=False)
    assert outcome.metrics == {}
    assert len(outcome.scans) == 2


def test_a_single_subject_is_calibrated_with_a_warning(
    cohort: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = cohort.parent / "imagesTr" / "train_000.nii.gz"
    with pytest.warns(UserWarning, match="one subject only"):
        fit([one], tmp_path / "bundle", embedder_name=str(tiny_vit), **FAST)


def test_a_fit_ends_with_what_it_did_and_what_comes_next(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to():
        _say_fitted(Outcome(metrics=describe_fit(bundle)), str(bundle))
    out = capsys.readouterr().out.splitlines()
    scans = json.loads((bundle / "provenance.json").read_text())["scans"]
    fitted, held_out = (sum(scan["role"] == role for scan in scans) for role in ("fitted", "held_out"))
    assert out[0] == f"fitted bundle: {bundle}"
    assert f"scans: {fitted} fitted, {held_out} held out for calibration" in out
    assert re.search(r"^mixture: \d+ of \d+ components used$", "\n".join(out), re.MULTILINE)
    assert re.search(
        r"^place: (judged in the frame (deformed|affine|box|none)|not judged by place)$", "\n".join(out), re.M
    )
    assert out[-1] == f"next: monai-dpmm-ad infer --bundle {bundle} --images SCANS --out maps"


def test_quiet_prints_nothing_and_the_log_has_all(
    bundle: Path, scan: nib.Nifti1Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nib.save(scan, tmp_path / "a.nii.gz")
    log = tmp_path / "log.txt"
    arguments = ["infer", "--bundle", bundle, "--images", tmp_path / "a.nii.gz", "--out", tmp_path / "out"]
    assert run(capsys, *arguments, "--no-report", "--quiet", "--log-file", log)[:2] == (0, "")
    assert f"results: {tmp_path / 'out'}" in log.read_text()
    assert "│ a " in log.read_text(), "the table of scans"


def test_the_log_has_the_traceback_of_an_error(
    tmp_path: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    arguments = ["infer", "--bundle", tmp_path, "--images", cohort, "--out", tmp_path / "out", "--log-file", log]
    assert run(capsys, *arguments)[0] == 1
    assert "Traceback" in log.read_text()


def test_verbose_lets_monai_speak(
    bundle: Path, scan: nib.Nifti1Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nib.save(scan, tmp_path / "a.nii.gz")
    arguments = ["infer", "--bundle", bundle, "--images", tmp_path / "a.nii.gz", "--no-report", "--out"]
    assert "Engine run" not in run(capsys, *arguments, tmp_path / "quiet")[2]
    assert "ScanEvaluator: Engine run" in run(capsys, *arguments, tmp_path / "verbose", "--verbose")[2]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert re.search("demo.*fit.*infer.*evaluate", out, re.DOTALL)
    assert "not a medical device" in out


def test_a_mask_is_asked_for_in_one_way(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`false_regions` must be left out with `rate`"):
        infer(bundle, [cohort], tmp_path / "out", false_regions=2.0, false_positive_rate=0.01)
    assert not (tmp_path / "out").exists()


def test_the_readme_says_how_many_regions_the_promise_counts(bundle: Path) -> None:
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert "1 expected in a healthy scan, of which at most 1 are counted (8 with 15 calibrating scans or more)." in text


def test_an_empty_path_is_not_the_current_folder(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status, _, err = run(capsys, "infer", "--bundle", bundle, "--images", "", "--out", tmp_path / "out")
    assert status == 1
    assert "`images` must name files or folders, got an empty path" in err


@pytest.mark.parametrize("command", ["infer", "evaluate", "compare", "cluster"])
def test_results_are_not_written_into_a_bundle(
    command: str, bundle: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(bundle.rglob("*"))
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    data = {"evaluate": ["--data", cohort], "compare": ["--before", scan, "--after", scan]}
    words = data.get(command, ["--images", cohort.parent / "imagesTs"])
    status, _, err = run(capsys, command, "--bundle", bundle, *words, "--out", bundle)
    assert status == 1
    assert err == f"error: `out` must be a folder of results, got the bundle {bundle}. Name another folder.\n"
    assert sorted(bundle.rglob("*")) == before


def test_an_evaluation_says_which_scans_have_no_part_in_it(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    masked, healthy, classed, bare = (dict(item) for item in reversed(json.loads(cohort.read_text())["test"]))
    for item in (masked, classed, healthy, bare):
        item["image"], item["label"] = (str(cohort.parent / item[key]) for key in ("image", "label"))
    healthy["abnormal"] = 1
    del healthy["label"], classed["label"], bare["label"], bare["abnormal"]
    gone = {"image": str(tmp_path / "gone.nii.gz")}
    (tmp_path / "some.json").write_text(json.dumps({"test": [masked, healthy, classed, bare, gone]}))
    outcome = evaluate(bundle, [tmp_path / "some.json"], tmp_path / "out")
    told = "3 of 5 scans have no mask of what is abnormal: figures of pixels and lesions are of the others"
    assert f"{told}; 2 of 5 scans have neither mask nor class, and no part in any figure" in outcome.note
    report = (tmp_path / "out" / "report.html").read_text()
    assert told in report
    assert f"<td>no such file or folder</td><td>{gone['image']}</td>" in report
    assert "have no mask" not in str(evaluate(bundle, [cohort], tmp_path / "all", report=False).note)


def test_an_evaluation_of_scans_that_were_fitted_says_so(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    listed = json.loads(cohort.read_text())
    items = [*listed["training"][:1], *listed["validation"][:1], *listed["test"][-1:]]
    items = [{"image": str(cohort.parent / item["image"]), "abnormal": item["abnormal"]} for item in items]
    for name, chosen in (("some", items), ("none", items[2:])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"test": chosen}))
    told = "2 of 3 scans were fitted or calibrate this bundle: figures with them flatter it"
    assert told in str(evaluate(bundle, tmp_path / "some.json", tmp_path / "out", report=False).note)
    assert "flatter" not in str(evaluate(bundle, tmp_path / "none.json", tmp_path / "new", report=False).note)
