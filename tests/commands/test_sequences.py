# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A bundle of several sequences through the commands, the object and MONAI."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_dpmm_ad import AnomalyModel, evaluate, fit, infer
from monai_dpmm_ad.bundle import load_workflow, read_settings
from monai_dpmm_ad.bundle.export import export_network
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.cluster import cluster
from monai_dpmm_ad.commands.compare import compare
from monai_dpmm_ad.commands.example import make_example_sequences
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers import DriftHandler

NAMES = ("T1", "T2", "FLAIR")


@pytest.fixture(scope="module")
def scans(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Section → folders, one a person, each with T1, T2 and FLAIR (and a mask) of the cohort's phantoms."""
    found: dict[str, list[Path]] = {}
    root = tmp_path_factory.mktemp("sequences")
    for section, entries in json.loads(cohort.read_text()).items():
        for entry in entries if isinstance(entries, list) else []:
            path = cohort.parent / entry["image"]
            image = nib.load(path)
            values = image.get_fdata(dtype=np.float32)
            folder = root / section / path.name.removesuffix(".nii.gz")
            folder.mkdir(parents=True)
            dark = np.where(values > 0, values.max() - 0.9 * values, 0)
            for name, one in zip(NAMES, (values, dark, np.sqrt(values)), strict=True):
                nib.save(nib.Nifti1Image(one, image.affine), folder / f"{name}.nii.gz")
            if entry.get("label"):
                (folder / "mask.nii.gz").symlink_to(cohort.parent / entry["label"])
            found.setdefault(section, []).append(folder)
    return found


def entry(folder: Path, *names: str) -> dict[str, Any]:
    images = [str(folder / f"{name}.nii.gz") if name in names else None for name in NAMES]
    mask = folder / "mask.nii.gz"
    return {"image": images, "name": folder.name, **({"label": str(mask)} if mask.exists() else {})}


def write(path: Path, **sections: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"channels": NAMES, **sections}))
    return path


@pytest.fixture(scope="module")
def together(scans: dict[str, list[Path]], tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of three sequences; one fitted person has no T2, one who was held out no FLAIR."""
    folder = tmp_path_factory.mktemp("together")
    first, *fitted = scans["training"]
    one, *others = scans["validation"]
    training = [entry(first, "T1", "FLAIR"), *(entry(person, *NAMES) for person in fitted)]
    validation = [entry(one, "T1", "T2"), *(entry(person, *NAMES) for person in others)]
    listed = write(folder / "fit.json", training=training, validation=validation)
    outcome = fit([listed], folder / "bundle", embedder_name=str(tiny_vit), **FAST)
    assert not outcome.failures
    return folder / "bundle"


@pytest.fixture(scope="module")
def person(scans: dict[str, list[Path]]) -> Path:
    return next(folder for folder in scans["test"] if "abnormal" in folder.name)


def paths(folder: Path, *names: str) -> dict[str, str]:
    return {name: str(folder / f"{name}.nii.gz") for name in names}


@pytest.fixture(scope="module")
def model(together: Path) -> AnomalyModel:
    return AnomalyModel.load(together)


def test_a_bundle_of_each_lies_inside(together: Path) -> None:
    assert read_settings(together)["sequences"] == list(NAMES)
    assert "sequences T1, T2, FLAIR of a scan" in (together / "docs" / "README.md").read_text()
    for name in NAMES:
        assert read_settings(together / "fit" / name)["sequences"] is None
    counts = {name: json.loads((together / "fit" / name / "provenance.json").read_text())["scans"] for name in NAMES}
    assert {name: len(scans) for name, scans in counts.items()} == {"T1": 5, "T2": 4, "FLAIR": 4}


def test_the_map_is_the_sum_of_those_of_the_single_bundles(together: Path, model: AnomalyModel, person: Path) -> None:
    images = paths(person, *NAMES).items()
    single = [AnomalyModel.load(together / "fit" / name).predict(image).map for name, image in images]
    assert np.allclose(model.predict(paths(person, *NAMES)).map, sum(single), atol=1e-4)
    assert np.allclose(model.predict(paths(person, "FLAIR", "T1")).map, single[0] + single[2], atol=1e-4)


def test_each_choice_has_a_calibration_of_its_own(together: Path, model: AnomalyModel, person: Path) -> None:
    calibration, regions = model.network.calibration, model.network.regions
    seen = {present: int(calibration.of(present).num_scans) for present in ("111", "110", "101", "011", "010", "001")}
    assert seen == {"111": 1, "110": 2, "101": 1, "011": 1, "010": 2, "001": 1}
    alone = AnomalyModel.load(together / "fit" / "T2").network
    assert np.allclose(calibration.of("010").image_scores[:2], alone.calibration.image_scores[:2], atol=1e-5)
    assert np.allclose(regions.of("010").largest[:2], alone.regions.largest[:2], atol=1e-5)
    result = model.predict(paths(person, "T2"))
    assert result.p_value == calibration.of("010").p_value(result.score)
    assert (result.row.smallest_p_value, 1 / (int(calibration.num_scans) + 1)) == (1 / 3, 1 / 2)
    assert result.row.warning is not None
    assert "T1 and FLAIR are missing: the other sequences are judged" in result.row.warning


def test_command_and_object_agree(together: Path, model: AnomalyModel, person: Path, tmp_path: Path) -> None:
    listed = write(tmp_path / "list.json", test=[entry(person, "T1", "T2")])
    assert main(["infer", "--bundle", str(together), "--images", str(listed), "--out", str(tmp_path / "out")]) == 0
    drawn = np.asarray(nib.load(tmp_path / "out" / f"{person.name}_anomaly.nii.gz").dataobj)
    assert np.array_equal(drawn, model.predict(paths(person, "T1", "T2")).map)
    assert (tmp_path / "out" / "report.html").is_file()
    (line,) = csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines())
    assert line["warning"].startswith("FLAIR is missing")


def test_a_4d_file_gives_the_map_of_its_volumes(
    together: Path, model: AnomalyModel, person: Path, tmp_path: Path
) -> None:
    volumes = [nib.load(path) for path in paths(person, *NAMES).values()]
    joined = np.stack([volume.get_fdata(dtype=np.float32) for volume in volumes], -1)
    nib.save(nib.Nifti1Image(joined, volumes[0].affine), tmp_path / "4d.nii.gz")
    listed = write(tmp_path / "list.json", test=[{"image": "4d.nii.gz"}])
    outcome = infer(together, [listed], tmp_path / "out")
    drawn = nib.load(tmp_path / "out" / "4d_anomaly.nii.gz")
    assert drawn.shape == joined.shape[:3]
    assert np.array_equal(np.asarray(drawn.dataobj), model.predict(paths(person, *NAMES)).map)
    assert outcome.report is not None
    assert (tmp_path / "out" / "overview.png").is_file()  # its first volume can be shown


def test_evaluation_takes_folders_by_the_bundles_names(
    together: Path, scans: dict[str, list[Path]], tmp_path: Path
) -> None:
    listed = write(tmp_path / "list.json", test=[entry(folder, *NAMES) for folder in scans["test"]])
    figures = evaluate(together, [listed], tmp_path / "out", report=False).metrics
    assert 0 <= figures["pixel_auroc"] <= 1
    outcome = infer(together, [scans["test"][0].parent], tmp_path / "maps", report=False)
    assert [row.name for row in outcome.scans] == sorted(folder.name for folder in scans["test"])
    assert outcome.failures == []


def test_bids_sidecars_name_every_sequence(together: Path, person: Path, tmp_path: Path) -> None:
    for name in ("T1", "FLAIR"):
        path = tmp_path / "raw" / "sub-1" / "anat" / f"sub-1_{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(person / f"{name}.nii.gz")
    (tmp_path / "raw" / "dataset_description.json").write_text("{}")
    infer(together, [tmp_path / "raw"], tmp_path / "out", report=False, bids=True)
    (sidecar,) = (tmp_path / "out" / "bids").rglob("*_desc-anomaly_T1.json")
    sources = json.loads(sidecar.read_text())["Sources"]
    assert sources == ["bids:raw:sub-1/anat/sub-1_T1.nii.gz", "bids:raw:sub-1/anat/sub-1_FLAIR.nii.gz"]


def test_the_healthy_twin_is_that_of_the_first_sequence(together: Path, person: Path, tmp_path: Path) -> None:
    single = together / "fit" / "FLAIR"
    for bundle, folder in ((together, "both"), (single, "one")):
        infer(bundle, [person / "FLAIR.nii.gz"], tmp_path / folder, report=False, healthy_twin=True)
    both, one = (next((tmp_path / folder).glob("*_healthy.nii.gz")) for folder in ("both", "one"))
    assert np.allclose(nib.load(both).get_fdata(), nib.load(one).get_fdata(), atol=1e-3)


def test_monai_runs_the_bundle(together: Path, person: Path, tmp_path: Path) -> None:
    listed = write(tmp_path / "list.json", test=[entry(person, *NAMES)])
    options = {"dataset_dir": str(listed), "output_dir": str(tmp_path / "out"), "trust_bundle": True}
    with load_workflow(together, ["inference"], "inference", **options) as workflow:
        workflow.run()
    assert (tmp_path / "out" / f"{person.name}_anomaly.nii.gz").is_file()
    options = {"dataset_dir": str(listed), "trust_bundle": True}
    with load_workflow(together, ["train", "train_sequences"], "train", **options) as workflow:
        assert workflow.network.names == NAMES


def test_each_sequences_patches_are_compared_with_its_own(model: AnomalyModel, person: Path, tmp_path: Path) -> None:
    told = model.predict(paths(person, "T1", "FLAIR")).scan["patch_summary"]
    assert [one is not None for one in told] == [True, False, True]
    network = copy.deepcopy(model.network)
    usage = torch.zeros(6, network[0].detector.num_components)
    for number in range(3):  # of these scans the typical log density is 0, 100 and 200
        network[number].drift.fit(100.0 * number + torch.arange(18.0).view(6, 3) / 18, usage)
    like = [{"profile": [100.0 * number + 0.5] * 3, "usage": usage[0].tolist()} for number in range(3)]
    scan = {"pred": MetaTensor(torch.ones(1, 2, 2), meta={"name": "a"}), "patch_summary": [like[0], None, like[1]]}
    engine = Engine(lambda engine, batch: batch)
    DriftHandler(network, tmp_path).attach(engine)
    engine.run([[scan]])
    assert "of FLAIR its typical patch is" in scan["warning"]
    assert "of T1" not in scan["warning"]


def test_voxels_of_a_later_sequence_alone_are_not_those_of_the_first(
    model: AnomalyModel, person: Path, tmp_path: Path
) -> None:
    """The fitted ones lie on the first sequence's grid, whatever theirs was."""
    image = nib.load(person / "FLAIR.nii.gz")
    nib.save(image.slicer[:, :, ::3], tmp_path / "FLAIR.nii.gz")
    nib.save(nib.load(person / "T1.nii.gz").slicer[:, :, ::3], tmp_path / "T1.nii.gz")
    assert "its voxels measure" not in str(model.predict(paths(tmp_path, "FLAIR")).row.warning)
    assert "its voxels measure" in str(model.predict(paths(tmp_path, "T1", "FLAIR")).row.warning)


def test_a_scan_that_says_nothing_of_its_sequences_fails_alone(together: Path, person: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.nii.gz"
    odd.symlink_to(person / "T1.nii.gz")
    outcome = infer(together, [odd, person / "FLAIR.nii.gz"], tmp_path / "out", report=False)
    assert [row.name for row in outcome.scans] == [person.name]
    (failure,) = outcome.failures
    assert "does not say which sequence it is: none of the sequences T1, T2 and FLAIR" in failure.reason


def test_a_finished_fit_and_a_finished_sequence_are_not_done_again(together: Path, tiny_vit: Path) -> None:
    model = together / "models" / "model.pt"
    before = model.read_bytes()
    again = fit([together.parent / "fit.json"], together, embedder_name=str(tiny_vit), **FAST)
    assert again.note == "the bundle was fitted by this very command before; nothing was done"
    model.unlink()
    stamps = [(together / "fit" / name / "models" / "model.pt").stat().st_mtime_ns for name in NAMES]
    fit([together.parent / "fit.json"], together, embedder_name=str(tiny_vit), **FAST)
    assert [(together / "fit" / name / "models" / "model.pt").stat().st_mtime_ns for name in NAMES] == stamps
    assert model.read_bytes() == before


def test_a_sequence_that_was_asked_for_otherwise_begins_anew() -> None:
    folder = make_example_sequences()
    root = folder / "bundle" / "fit" / "FLAIR"
    (root / "models" / "model.pt").unlink()
    (folder / "bundle" / "models" / "model.pt").unlink()
    (root / "left").write_text("by a fit of FLAIR on the grid of T1")
    few = {"image_size": 56, "num_components": 4, "max_epochs": 1, "normative": "off"}
    fit([folder / "scans.json"], folder / "bundle", sequences=["FLAIR", "T1"], **few)
    assert not (root / "left").exists()
    assert read_settings(folder / "bundle")["sequences"] == ["FLAIR", "T1"]


def test_of_a_single_person_a_named_side_counts_at_any_place(
    scans: dict[str, list[Path]], tiny_vit: Path, tmp_path: Path
) -> None:
    people = [entry(folder, "T1", "FLAIR") for folder in scans["training"][:2]]
    listed = write(tmp_path / "fit.json", training=people[:1], validation=people[1:])
    fit([listed], tmp_path / "bundle", embedder_name=str(tiny_vit), intensity_side="dark", **FAST)
    network = AnomalyModel.load(tmp_path / "bundle").network
    assert network.normative is None
    assert network.intensity_tail is not None
    settings = [read_settings(tmp_path / "bundle" / part) for part in ("", "fit/T1", "fit/FLAIR")]
    assert [one["axes"] for one in settings] == [["auto"]] * 3  # the second is asked for without place
    tails = [one.intensity_tail for one in map(network.__getitem__, range(2))]
    assert [(tail.tail, tail.fitted) for tail in tails] == [("dark", True)] * 2
    scanned = write(tmp_path / "new.json", test=[people[1]])
    assert not infer(tmp_path / "bundle", [scanned], tmp_path / "out", report=False).failures


def test_what_takes_single_images_says_so(together: Path, bundle: Path, person: Path, tmp_path: Path) -> None:
    message = (
        "`bundle` must be of single images for {}, got one of the sequences T1, T2, FLAIR. Take the bundle of one "
    )
    with pytest.raises(ValueError, match=message.format("cluster")) as caught:
        cluster(together, [person.parent], tmp_path / "cluster")
    assert str(together / "fit" / "FLAIR") in str(caught.value)
    with pytest.raises(ValueError, match=message.format("a graph")):
        export_network(together, tmp_path / "model.onnx")
    handed_on = shutil.copytree(together, tmp_path / "handed_on", ignore=shutil.ignore_patterns("fit"))
    with pytest.raises(ValueError, match=r"Fit one of FLAIR alone\."):
        export_network(handed_on, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="it is of several sequences"):
        AnomalyModel.load(handed_on).network.check_graph()
    assert not (tmp_path / "cluster").exists()
    with pytest.raises(ValueError, match="`sequences` must be one for an update or several processes, got T1, T2, FL"):
        fit([together.parent / "fit.json"], tmp_path / "updated", update=bundle)
    with pytest.raises(ValueError, match=message.format("an update")):
        fit([person], tmp_path / "updated", update=together)
    listed = write(tmp_path / "list.json", test=[entry(person, *NAMES)])
    with pytest.raises(ScanError, match="is a scan of the sequences T1, T2 and FLAIR, but a single image is asked for"):
        infer(bundle, [listed], tmp_path / "out")


def test_two_visits_of_several_sequences(
    together: Path, model: AnomalyModel, scans: dict[str, list[Path]], tmp_path: Path
) -> None:
    """What changed shows in one of the sequences alone; both visits must have the same ones."""
    source, other = scans["training"][1], scans["validation"][0]
    for visit in ("before", "after"):
        (tmp_path / visit / "sub-1").mkdir(parents=True)
        for name in NAMES:
            image = nib.load(source / f"{name}.nii.gz")
            values = np.asarray(image.dataobj, dtype=np.float32)
            if (visit, name) == ("after", "FLAIR"):
                middle = [size // 2 for size in values.shape]
                values[tuple(slice(m - 2, m + 2) for m in middle)] = 2 * values.max()
            nib.save(nib.Nifti1Image(values, image.affine), tmp_path / visit / "sub-1" / f"{name}.nii.gz")
    sides = [tmp_path / visit for visit in ("before", "after")]
    outcome = compare(together, tmp_path / "out", sides[:1], sides[1:], healthy=[other])
    assert not outcome.failures
    (row,) = outcome.pairs
    healthy = json.loads((tmp_path / "out" / "healthy_pairs.json").read_text())
    assert healthy["kind"] == "simulated repeats"
    first, second = (paths(tmp_path / visit / "sub-1", *NAMES) for visit in ("before", "after"))
    without = [paths(tmp_path / visit / "sub-1", *NAMES[:2]) for visit in ("before", "after")]
    changed = model.compare(first, second).change
    written = nib.load(tmp_path / "out" / f"{row['name']}_change.nii.gz")
    assert np.array_equal(changed, written.get_fdata(dtype=np.float32))
    assert np.abs(changed).max() > 5, "the change is in FLAIR alone"
    assert np.abs(model.compare(*without).change).max() < 1
    with pytest.raises(ScanError, match=r"has other sequences than the first visit, .* what the other lacks"):
        model.compare(first, without[1])


def test_a_sequence_may_be_missing_but_not_all_of_them(model: AnomalyModel, person: Path) -> None:
    given = paths(person, "T1", "T2")
    assert np.array_equal(model.predict({**given, "FLAIR": None}).map, model.predict(given).map)
    empty = nib.Nifti1Image(np.full((9, 9, 9), np.nan, np.float32), np.eye(4))
    with pytest.raises(ScanError, match=r"^the image in memory of T2: has nothing but NaN voxels"):
        model.predict({**given, "T2": empty})
    for images in ({}, {"T1": None}):
        with pytest.raises(ValueError, match="`image` must have one of T1, T2, FLAIR at least, got none"):
            model.predict(images)


def test_the_object_refuses_what_it_was_not_fitted_on(model: AnomalyModel, bundle: Path, person: Path) -> None:
    with pytest.raises(ValueError, match=r"`image` must be one of FLAIR, T1, T2, got 'T2w'\. Did you mean 'T2'\?"):
        model.predict({"T2w": person / "T2.nii.gz"})
    with pytest.raises(ScanError, match="does not say which sequence it is"):
        model.predict(nib.load(person / "T1.nii.gz"))
    with pytest.raises(ValueError, match="`image` must be a single image for this bundle, got the sequences T1"):
        AnomalyModel.load(bundle).predict(paths(person, "T1"))
