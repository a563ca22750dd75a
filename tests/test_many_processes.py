# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several processes do what one does: here two gloo processes on the CPU, through the command line and the bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import SETTINGS, create_bundle
from monai_dpmm_ad.commands import evaluate

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]


def run(command: list[object], processes: int = 2, status: int = 0) -> str:
    """What a module says that is run alone or on two processes, each on one thread: rounding depends on how many."""
    start = TORCHRUN if processes == 2 else [sys.executable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [str(part) for part in [*start, "-m", *command]], capture_output=True, text=True, timeout=500, env=environment
    )
    assert finished.returncode == status, finished.stderr[-4000:]
    return finished.stderr


def run_bundle(bundle: Path, configs: list[str], **overrides: object) -> None:
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    ids = {name: f"settings#{name}" if name in SETTINGS else name for name in overrides}
    options = [text for name, value in overrides.items() for text in (f"--{ids[name]}", value)]
    run(["monai.bundle", "run", "--config_file", files, "--bundle_root", bundle, *options])


def fit(out: Path, images: Path, backbone: Path, processes: int, *options: object) -> dict[str, torch.Tensor]:
    fast = ["--image-size", FAST["image_size"], "--num-components", FAST["num_components"], "--max-epochs", 2]
    fast += ["--frame", FAST["frame"]]  # unless the options say another
    run(
        [
            "monai_dpmm_ad",
            "fit",
            "--images",
            images,
            "--out",
            out,
            "--embedder",
            backbone,
            *fast,
            *options,
        ],
        processes,
    )
    return torch.load(out / "models" / "model.pt", weights_only=True)


def assert_same_state(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    size = float(one["detector.mixture.statistic_size"])
    for name, tensor in one.items():
        # The entropy is a difference of sums over all patches, near zero where each has one component: nats a patch.
        atol = 1e-5 * size if name.endswith("statistic_entropy") else 1e-8
        # A knot is the edge of a bin of the scores: the next one, or one more, where a score lies at the edge.
        rtol = 1e-4 if name.endswith("knots") else 1e-5
        if name.startswith("normative.scores."):
            # The mixture's sums are added up in another order, which moves a score by 1e-7 of itself. The atlas sums
            # integers, whatever the order, but keeps half precision: where a mean lies between two numbers it becomes
            # the other one (here at 74 of 77 000 places, by two units in the last place at most, 1.8e-3).
            rtol, atol = 2e-3, 2e-3 * float(tensor.double().abs().max())
        if name == "regions.largest":  # 1e-5 apart here; a peak that lies at such a place is twice as far apart
            rtol, atol = 5e-3, 5e-3
        if name == "range.rows":  # logarithms of quantiles of the maps, which such places move
            rtol, atol = 0, 1e-3
        difference = float((two[name].double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        torch.testing.assert_close(
            two[name], tensor, rtol=rtol, atol=atol, msg=f"{name} differs by up to {difference:.2g}"
        )


def assert_same_maps(one: Path, two: Path) -> None:
    maps = sorted(path.name for path in one.glob("*.nii.gz"))
    assert maps
    assert maps == sorted(path.name for path in two.glob("*.nii.gz"))
    for name in maps:
        assert np.array_equal(np.asarray(nib.load(one / name).dataobj), np.asarray(nib.load(two / name).dataobj))


def test_fitting_with_two_processes_is_fitting_with_one(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    options = ["--frame", "deformed", "--augment", 1]
    one, two = (fit(tmp_path / str(n), cohort, tiny_vit, n, *options) for n in (1, 2))
    assert int(two["calibration.num_scans"]) == int(two["regions.num_scans"]) == 2
    assert int(two["normative.intensity.num_scans"]) == 3
    assert int(two["normative.scores.num_scans"]) == 6  # with the copies
    assert_same_state(one, two)
    configs = [json.loads((tmp_path / name / "configs" / "inference.json").read_text()) for name in ("1", "2")]
    assert configs[0] == configs[1]
    assert not list((tmp_path / "2" / "fit" / "embeddings").glob("*-part*"))


@pytest.mark.parametrize("detector", ["memory_bank", "himatch", "ogae"])
def test_other_detectors_fit_on_two_processes_what_they_fit_on_one(
    cohort: Path, tiny_vit: Path, tmp_path: Path, detector: str
) -> None:
    one, two = (fit(tmp_path / str(n), cohort, tiny_vit, n, "--detector", detector) for n in (1, 2))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6, msg=f"{name} differs")


def test_a_bad_scan_is_named_once_and_the_others_are_fitted(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((cohort.parent / "imagesTr").glob("*.nii.gz")):
        (images / path.name).symlink_to(path)
    (images / "damaged.nii.gz").write_text("hello")
    command = ["monai_dpmm_ad", "fit", "--images", images, "--embedder", tiny_vit, "--image-size", 56]
    command += ["--num-components", 8, "--max-epochs", 2, "--held-out", cohort, "--out"]
    for processes in (1, 2):
        run([*command, tmp_path / str(processes)], processes, status=1)
    tables = [(tmp_path / name / "failures.csv").read_text() for name in ("1", "2")]
    assert tables[0] == tables[1]
    assert tables[0].count("\n") == 2  # a heading and a line
    states = [torch.load(tmp_path / name / "models" / "model.pt", weights_only=True) for name in ("1", "2")]
    assert_same_state(*states)


def test_an_interrupted_embedding_continues_with_another_number_of_processes(
    cohort: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    """Parts of two processes, one scan each, are what a kill leaves; one process goes on from them."""
    expected = fit(tmp_path / "one", cohort, tiny_vit, 1)
    fit(tmp_path / "two", cohort, tiny_vit, 2)
    bundle = tmp_path / "two"
    (bundle / "models" / "model.pt").unlink()
    store = bundle / "fit" / "embeddings" / "train"
    store.rename(store.with_name("train-part1of2"))
    assert_same_state(expected, fit(bundle, cohort, tiny_vit, 1))


def test_evaluating_with_two_processes_is_evaluating_with_one(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    command = ["monai_dpmm_ad", "evaluate", "--bundle", bundle, "--data", cohort, "--no-report", "--out"]
    for processes in (1, 2):
        run([*command, tmp_path / str(processes)], processes)
    assert_same_maps(tmp_path / "1", tmp_path / "2")
    for table in ("scores.csv", "regions.csv", "regions.json"):
        assert (tmp_path / "1" / table).read_bytes() == (tmp_path / "2" / table).read_bytes()
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("1", "2"))
    assert one.keys() == two.keys()
    for name, figure in one.items():
        assert two[name] == pytest.approx(figure, abs=1e-6), name


def test_whole_heads_on_two_processes_are_those_on_one(brains: Path, tmp_path: Path) -> None:
    scans = [brains / "head.nii.gz", tmp_path / "lost.nii.gz"]
    head = nib.load(scans[0])
    noise = np.random.default_rng(0).uniform(0.2, 1, head.shape) * head.get_fdata()
    nib.save(nib.Nifti1Image(noise.astype(np.float32), head.affine), scans[1])
    command = ["monai_dpmm_ad", "infer", "--bundle", brains / "bundle", "--images", *scans, "--no-report", "--out"]
    for processes in (1, 2):
        run([*command, tmp_path / str(processes)], processes)
    assert_same_maps(tmp_path / "1", tmp_path / "2")
    tables = [(tmp_path / name / "scores.csv").read_text() for name in ("1", "2")]
    assert tables[0] == tables[1]
    assert "its skull was taken away by the frame, " in tables[0]
    assert "which were not found in it: all of it is mapped" in tables[0]
    command = ["monai_dpmm_ad", "fit", "--update", brains / "bundle", "--images", scans[0], "--held-out", scans[1]]
    log = run([*command, "--max-epochs", 1, "--out", tmp_path / "new"])
    for name in ("head: larger than 1.5 times", "lost: whole heads where brains were fitted"):
        assert log.count(name) == 1


def test_more_processes_than_scans(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    scan = next((cohort.parent / "imagesTs").glob("*.nii.gz"))
    command = ["monai_dpmm_ad", "infer", "--bundle", bundle, "--images", scan, "--no-report", "--out"]
    for processes in (1, 2):
        run([*command, tmp_path / str(processes)], processes)
    assert_same_maps(tmp_path / "1", tmp_path / "2")


def test_the_bundle_itself_runs_on_two_processes(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    bundle = create_bundle(tmp_path / "bundle")
    options = {**FAST, "embedder_name": tiny_vit, "dataset_dir": cohort, "max_epochs": 1}
    run_bundle(bundle, ["train", "multi_gpu_train"], **options)
    expected = evaluate(bundle, [cohort], tmp_path / "one", report=False)
    assert len(expected.scans) == 4
    configs = ["inference", "evaluate", "multi_gpu_evaluate"]
    run_bundle(bundle, configs, dataset_dir=cohort, output_dir=tmp_path / "two")
    lines = (tmp_path / "two" / "metrics.csv").read_text().splitlines()
    figures = dict(line.split(",")[:2] for line in lines)
    for name in ("pixel_auroc", "best_dice_foreground", "image_auroc"):
        assert float(figures[name]) == pytest.approx(expected.metrics[name], abs=1e-6)
