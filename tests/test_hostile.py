# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Hostile files: a sample of the soak in ``tests/soak/hostile.py``, and properties."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soak.hostile import KINDS, Workshop, try_mutant

from monai_dpmm_ad.bundle import load_workflow, read_settings
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.errors import CheckpointError, ScanError
from monai_dpmm_ad.transforms import LoadScan, output_path
from monai_dpmm_ad.utils.files import lock_folder

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("hostile"))


@pytest.mark.filterwarnings("ignore")  # libraries comment on damaged files; what counts is what comes of it
@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_read_or_refused_with_a_reason(kind: str, shop: Workshop) -> None:
    number = {"bundle": 30, "store": 60}.get(kind, 120)
    results = {f"{kind}-{i}": try_mutant(shop, kind, i) for i in range(number)}
    assert {name: result for name, result in results.items() if result not in ("read", "refused")} == {}
    assert kind == "name" or "refused" in results.values()  # whatever a scan is called, it is read


@pytest.mark.parametrize("compressed", [False, True])
@PROPERTY
@given(shape=st.lists(st.integers(2000, 32767), min_size=3, max_size=3), kind=st.sampled_from([2, 4, 16, 64]))
def test_a_header_that_claims_terabytes_is_refused_before_memory_is_taken(
    tmp_path: Path, compressed: bool, shape: list[int], kind: int
) -> None:
    header = nib.Nifti1Header()
    header["dim"][:4] = [3, *shape]
    header["datatype"], header["bitpix"], header["vox_offset"], header["magic"] = kind, 8, 352, b"n+1"
    data = header.binaryblock + bytes(4) + bytes(1000)
    path = tmp_path / ("a.nii.gz" if compressed else "a.nii")
    path.write_bytes(gzip.compress(data) if compressed else data)
    with pytest.raises(ScanError, match="claims shape"):
        LoadScan()(path)


@pytest.mark.parametrize(
    ("offset", "extension", "message"),
    [
        (2.0**40, None, "voxels begin at byte"),
        (400.0, 2**31 - 8, "extension of 2147483640 bytes"),
        (0.0, 4, "extension"),
    ],
)
def test_a_header_that_points_far_away_is_refused(
    tmp_path: Path, offset: float, extension: int | None, message: str
) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[108:112] = struct.pack("<f", offset)
    if extension is not None:
        data[348:352] = b"\1\0\0\0"
        data[352:352] = struct.pack("<ii", extension, 0) + bytes(40)
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(ScanError, match=message):
        LoadScan()(tmp_path / "a.nii")


def test_a_header_with_an_extension_is_read(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"scanned on a Monday"))
    for name in ("a.nii", "a.nii.gz"):
        nib.save(image, tmp_path / name)
        assert LoadScan()(tmp_path / name).shape == (1, 3, 4, 5)


@PROPERTY
@given(
    paths=st.lists(st.text(min_size=1, max_size=40).map(lambda text: f"../{text}/../../{text}.nii"), max_size=6),
    names=st.lists(st.text(max_size=300), max_size=6),
)
def test_no_name_leads_out_of_the_output_folder(tmp_path: Path, paths: list[str], names: list[str]) -> None:
    entries = [{"image": path} for path in paths] + [{"image": f"/a/{i}.nii", "name": n} for i, n in enumerate(names)]
    (tmp_path / "list.json").write_text(json.dumps({"test": entries}))
    try:
        items = resolve_datalist([tmp_path / "list.json"])
    except ScanError:
        return
    for item in items:
        path = output_path(tmp_path / "out", item["name"], "anomaly", "a.nii")
        assert path.parent == tmp_path / "out"
        assert Path(os.path.normpath(path)).parent == tmp_path / "out"
    assert len({item["name"].lower() for item in items}) == len(items)


def test_links_that_run_in_circles_end(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((3, 3, 3)), np.eye(4)), inner / "scan.nii")
    for number in range(3):
        (inner / f"up{number}").symlink_to(tmp_path)
        (tmp_path / f"down{number}").symlink_to(inner)
    assert len(resolve_datalist([tmp_path])) == 1


def scan_of(cohort: Path, folder: Path) -> Path:
    """A scan of the cohort under a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(cohort.parent / "imagesTs" / "test_healthy_000.nii.gz", folder / "FLAIR.nii.gz"))


def test_an_output_that_is_a_link_is_replaced_when_that_is_asked_for(
    bundle: Path, cohort: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    scan = scan_of(cohort, tmp_path / "in")
    (out / "FLAIR_anomaly.nii.gz").symlink_to(victim)
    (failure,) = infer(bundle, [scan], out, report=False).failures
    assert failure.path == str(out / "FLAIR_anomaly.nii.gz")
    assert (out / "FLAIR_anomaly.nii.gz").is_symlink()
    assert not infer(bundle, [scan], out, report=False, overwrite=True).failures
    assert not (out / "FLAIR_anomaly.nii.gz").is_symlink()
    assert victim.read_text() == "precious"


# The user's files -----------------------------------------------------------------------------------------------------


def test_results_in_the_folder_of_the_scans_replace_nothing(
    bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = scan_of(cohort, tmp_path)
    other = Path(shutil.copy(scan, tmp_path / "T1.nii.gz"))
    mask = Path(shutil.copy(scan, tmp_path / "FLAIR_mask.nii.gz"))
    table = tmp_path / "failures.csv"
    table.write_text("name,mine\n")
    before = {path: path.read_bytes() for path in (scan, mask, table)}
    scans = [str(scan), str(other)]
    command = ["infer", "--bundle", str(bundle), "--images", *scans, "--no-report", "--out", str(tmp_path)]
    assert main(command) == 1
    assert f"error: {table}: is there already and was not written by this program" in capsys.readouterr().err
    assert not (tmp_path / "FLAIR_anomaly.nii.gz").exists(), "before the long work"
    table.rename(tmp_path / "my_failures.csv")
    assert main(command) == 1
    assert f"failed: {mask}: is there already" in capsys.readouterr().err
    assert (tmp_path / "T1_mask.nii.gz").is_file(), "the others are done"
    assert {path: path.read_bytes() for path in (scan, mask)} == {path: before[path] for path in (scan, mask)}
    assert (tmp_path / "my_failures.csv").read_bytes() == before[table]
    assert main([*command, "--overwrite"]) == 0
    assert mask.read_bytes() != before[mask]
    assert scan.read_bytes() == before[scan]
    assert main(command) == 0, "what was asked for is ours from now on"


def test_a_corrected_mask_is_kept(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    scan = scan_of(cohort, tmp_path / "in")
    assert not infer(bundle, [scan], tmp_path / "out", report=False).failures
    mask = tmp_path / "out" / "FLAIR_mask.nii.gz"
    image = nib.load(mask)
    corrected = nib.Nifti1Image(1 - np.asarray(image.dataobj), image.affine, image.header)
    nib.save(corrected, mask)
    (failure,) = infer(bundle, [scan], tmp_path / "out", report=False).failures
    assert failure.path == str(mask)
    assert "or was changed since" in failure.reason
    assert np.array_equal(np.asarray(nib.load(mask).dataobj), np.asarray(corrected.dataobj))


def test_the_map_of_another_patient_is_kept(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    first, second = (scan_of(cohort, tmp_path / name) for name in ("patient1", "patient2"))
    assert not infer(bundle, [first], tmp_path / "out", report=False).failures
    (failure,) = infer(bundle, [second], tmp_path / "out", report=False).failures
    assert failure.reason.startswith(f"is of another scan, {first}; name another --out")
    assert not infer(bundle, [first], tmp_path / "out", report=False, batch_size=3).failures


@pytest.mark.filterwarnings("default")
def test_a_graph_replaces_neither_a_model_nor_a_scan(
    bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = scan_of(cohort, tmp_path)
    model = Path(shutil.copytree(bundle, tmp_path / "copy")) / "models" / "model.pt"
    for victim in (scan, model):
        before = victim.read_bytes()
        assert main(["export", "--bundle", str(bundle), "--format", "torchscript", "--out", str(victim)]) == 1
        assert f"error: {victim}: is there already" in capsys.readouterr().err
        assert victim.read_bytes() == before


def test_pretraining_does_not_replace_weights_of_the_user(
    cohort: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path(shutil.copytree(tiny_vit, tmp_path / "mine"))
    before = {path: path.read_bytes() for path in mine.iterdir()}
    images = str(cohort.parent / "imagesTr")
    assert main(["pretrain", "--images", images, "--steps", "1", "--batch-size", "2", "--out", str(mine)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_has_one_writer(
    bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    held = lock_folder(out)
    for command in ("infer", "cluster"):
        assert main([command, "--bundle", str(bundle), "--images", str(cohort), "--out", str(out)]) == 1
        assert f"error: {out}: another process is writing to this folder" in capsys.readouterr().err
    held.release()
    assert os.listdir(out) == [".lock"]


def test_a_refused_fit_leaves_no_request(
    bundle: Path, cohort: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fit that was refused while another ran was told later that it had fitted the bundle."""
    command = ["fit", "--images", str(cohort), "--embedder", str(tiny_vit), "--image-size", "56", "--seed"]
    out = tmp_path / "out"
    out.mkdir()
    held = lock_folder(out)
    assert main([*command, "1", "--out", str(out)]) == 1
    assert "another process is writing to this folder" in capsys.readouterr().err
    held.release()
    assert not (out / "fit" / "request.json").exists()
    scans = tmp_path / "scans"
    scan_of(cohort, scans)
    assert main([*command, "1", "--out", str(scans)]) == 1
    assert "is not empty and no bundle" in capsys.readouterr().err
    assert os.listdir(scans) == ["FLAIR.nii.gz"]


# Bundles --------------------------------------------------------------------------------------------------------------


def change(bundle: Path, folder: Path, **changes: object) -> Path:
    """A copy of a bundle with other values of ids in its ``inference.json``; a dictionary is merged."""
    copy = Path(shutil.copytree(bundle, folder / "copy"))
    path = copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) and name in config else value
    path.write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intensity": "$__import__('os').system('true')"}, "`intensity` must not begin with"),
        ({"detector_options": {"_target_": "os.mkdir"}}, "`detector_options` must have plain names as keys"),
        ({"detector_options": {"a": [{"b": "@network"}]}}, "`detector_options` must not begin with @"),
        ({"more": 1}, "`more` is no setting of a run"),
        ({"imagesize": 1}, "Did you mean `image_size`"),
        ({"image_size": "224"}, "`image_size` must be a whole number"),
        ({"image_size": 0}, r"`image_size` must lie in \[1, inf\)"),
        ({"min_foreground": True}, "`min_foreground` must be a number"),
        ({"location_weight": float("nan")}, "`location_weight` must be a number"),
        ({"axes": []}, "`axes` must be a list"),
        ({"axes": ["axial", "tilted"]}, "`axes` must be one of"),
        ({"upsampling": None}, "`upsampling` must be a text"),
        ({"stages": "halves"}, "`stages` must be a list of a whole number or quarters or None"),
        ({"seed": 1}, "`seed` is no setting of a run"),
    ],
    ids=str,
)
def test_a_bundle_with_settings_that_are_none_is_refused(
    bundle: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    copy = change(bundle, tmp_path, settings=settings)
    with pytest.raises(CheckpointError, match=rf"inference\.json: .*{message}"):
        load_workflow(copy, ["inference"], "inference")


@pytest.mark.parametrize(
    "content", ["[]", "{", "[" * 100_000, '{"settings": 3}', '{"format_version": 2, "settings": []}'], ids=repr
)
def test_a_bundle_without_settings_is_refused(bundle: Path, tmp_path: Path, content: str) -> None:
    copy = change(bundle, tmp_path)
    (copy / "configs" / "inference.json").write_text(content)
    if "3" in content:  # format 1 had no such section: all else has its default
        assert read_settings(copy)["image_size"] == 224
        return
    with pytest.raises(CheckpointError, match=r"inference\.json: "):
        load_workflow(copy, ["inference"], "inference")


@pytest.mark.filterwarnings("default")  # the command line prints warnings in its own way
@pytest.mark.parametrize("name", ["infer", "evaluate", "cluster", "export"])
def test_a_bundle_is_data_unless_it_is_trusted(
    bundle: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Its code would leave a mark: in a component of another class, a metadata field, the logging, an import."""
    mark = tmp_path / "mark"
    code = f"$__import__('pathlib').Path({str(mark)!r}).touch()"
    changes = {"network_def": {"_target_": "pathlib.Path.nowhere", "state": code}, "datalist": code}
    copy = change(bundle, tmp_path, **changes)
    for file, more in (("evaluate.json", changes), ("metadata.json", {})):  # an evaluation lies over an inference
        path = copy / "configs" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), "+imports": [code], "task": code, **more}))
    with (copy / "configs" / "logging.conf").open("a") as file:
        file.write(f"\n[handler_x]\nclass=StreamHandler\nargs=({code[1:]},)\n")
    scans = {"evaluate": ["--data", str(cohort)], "export": []}.get(name, ["--images", str(cohort)])
    report = ["--no-report"] if name in ("infer", "evaluate") else []
    assert main([name, "--bundle", str(copy), *scans, "--out", str(tmp_path / "out"), *report]) == 0
    assert not mark.exists()
    if name == "infer":
        infer(bundle, [cohort], tmp_path / "ours", report=False)
        assert (tmp_path / "out" / "scores.csv").read_text() == (tmp_path / "ours" / "scores.csv").read_text()
    capsys.readouterr()
    assert main([name, "--bundle", str(copy), *scans, "--out", str(tmp_path / "own"), "--trust-bundle"]) == 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["infer", "export"])
def test_a_customised_bundle_runs_its_own_configs_when_it_is_trusted(
    bundle: Path, cohort: Path, tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "mark"
    state = f"$open({str(mark)!r}, 'w').close() or monai_dpmm_ad.read_state(@ckpt_path)"
    copy = change(bundle, tmp_path, network_def={"state": state})
    scans = ["--images", str(cohort), "--no-report"] if name == "infer" else []
    assert main([name, "--bundle", str(copy), *scans, "--out", str(tmp_path / "out"), "--trust-bundle"]) == 0
    assert mark.exists()


def test_plain_settings_of_a_bundle_may_differ(bundle: Path, tmp_path: Path) -> None:
    copy = change(bundle, tmp_path, settings={"false_positive_rate": 0.05, "batch_size": 2})
    workflow = load_workflow(copy, ["inference"], "inference", batch_size=3)
    values = workflow.parser.get_parsed_content("values")
    assert (values["false_positive_rate"], values["batch_size"]) == (0.05, 3)


def test_a_model_that_unpacks_to_more_than_it_has_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    path = copy / "models" / "model.pt"
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="is damaged or no model"):
        load_workflow(copy, ["inference"], "inference")


def test_a_model_that_would_run_code_is_refused(bundle: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    torch.save({"a": Attack()}, copy / "models" / "model.pt")
    with pytest.raises(CheckpointError, match="is damaged or no model"):
        load_workflow(copy, ["inference"], "inference")
    assert not (tmp_path / "attacked").exists()
