# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Growing cohorts: new scans are added to a fitted bundle without the old ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle.provenance import load_provenance, refuse_headers
from monai_dpmm_ad.bundle.update import _keep_sides, record_scans
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data import Split
from monai_dpmm_ad.data.content import hash_scans
from monai_dpmm_ad.data.datalist import Found
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.embedding import EmbeddingStore
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.utils.files import file_sha256

SAME = {name: value for name, value in FAST.items() if name != "num_components"}


def provenance(bundle: Path) -> list[tuple[str, int, bool]]:
    return sorted((scan["role"], scan["fit"], scan["calibrates"]) for scan in load_provenance(bundle)["scans"])


def mixture_of(bundle: Path) -> DirichletProcessMixture:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    prefix = "detector.mixture."
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    mixture = DirichletProcessMixture(len(part["statistic_counts"]), len(part["data_mean"]))
    mixture.load_state_dict(part)
    return mixture


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datalist of further phantoms of the same population."""
    folder = tmp_path_factory.mktemp("new")
    return write_cohort(
        folder, num_train=3, num_valid=1, num_test_healthy=1, num_test_abnormal=0, spacing=4.0, size="small", seed=9
    )


@pytest.fixture(scope="module")
def updated(bundle: Path, new: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("updated") / "bundle"
    before = (bundle / "models" / "model.pt").read_bytes()
    assert not fit([new], folder, update=bundle, **SAME).failures
    assert (bundle / "models" / "model.pt").read_bytes() == before
    return folder


def test_an_update_is_as_good_as_a_refit_from_scratch(cohort: Path, new: Path, tiny_vit: Path, tmp_path: Path) -> None:
    """With 1500 patches and until both have converged: with the 67 patches of the other tests, luck decides."""
    options = {"image_size": 168, "patch_fraction": 1.0, "num_components": 16, "patches_per_batch": 256}
    bundle, updated, refitted = (tmp_path / name for name in ("bundle", "updated", "refitted"))
    fit([cohort], bundle, embedder_name=str(tiny_vit), **options)
    fit([new], updated, update=bundle)
    fit([cohort, new], refitted, embedder_name=str(tiny_vit), **options)
    store = EmbeddingStore(refitted / "fit" / "embeddings" / "validate")
    patches = store.sample(store.num_rows)["patches"].flatten(1)
    held_out = torch.nn.functional.normalize(patches, dim=1)
    one, two = (float(mixture_of(folder).log_prob(held_out).mean()) for folder in (updated, refitted))
    assert one >= two - 0.01 * abs(two)
    assert one > float(mixture_of(bundle).log_prob(held_out).mean())


def test_the_statistics_count_old_and_new_patches(updated: Path, bundle: Path) -> None:
    new = EmbeddingStore(updated / "fit" / "embeddings" / "train").num_rows
    old = float(mixture_of(bundle).statistic_size)
    assert float(mixture_of(updated).statistic_size) == pytest.approx(old + new)
    assert float(mixture_of(updated).statistic_counts.sum()) == pytest.approx(old + new)


def test_the_atlases_know_old_and_new_scans(updated: Path, bundle: Path) -> None:
    states = [torch.load(folder / "models" / "model.pt", weights_only=True) for folder in (bundle, updated)]
    for atlas in ("intensity", "deviation", "scores"):
        assert [int(state[f"normative.{atlas}.num_scans"]) for state in states] == [3, 6]
        old, new = (state[f"normative.{atlas}.weight"].double() * n for state, n in zip(states, (3, 6), strict=True))
        assert (new >= old - 1e-2).all()  # half precision
        assert new.sum() > 1.5 * old.sum()
    assert torch.equal(*(state["normative.reference_values"] for state in states))  # places mean what they meant


def test_every_scan_is_recorded(updated: Path, bundle: Path) -> None:
    assert provenance(bundle) == [("fitted", 0, False)] * 3 + [("held_out", 0, True)] * 2
    fitted = [("fitted", 0, False)] * 3 + [("fitted", 1, False)] * 3
    assert provenance(updated) == fitted + [("held_out", 0, True)] * 2 + [("held_out", 1, True)]
    assert all(len(scan["sha256"]) == 64 for scan in load_provenance(updated)["scans"])


def test_calibration_takes_the_old_held_out_scans_that_are_still_there(
    updated: Path, cohort: Path, bundle: Path, new: Path, tmp_path: Path
) -> None:
    calibrated = torch.load(updated / "models" / "model.pt", weights_only=True)["calibration.num_scans"]
    assert int(calibrated) == 3
    # A copy of the bundle whose held-out scans are gone, or are others now.
    moved = shutil.copytree(bundle, tmp_path / "moved")
    content = load_provenance(moved)
    gone, changed = (scan for scan in content["scans"] if scan["role"] == "held_out")
    gone["image"] = "/no/such/file.nii.gz"
    changed["sha256"] = "0" * 64
    (moved / "provenance.json").write_text(json.dumps(content))
    fit([new], tmp_path / "out", update=moved, **SAME)
    assert provenance(tmp_path / "out")[-3:] == [("held_out", 0, False)] * 2 + [("held_out", 1, True)]


def test_a_person_stays_on_a_side() -> None:
    def visit(who: str, number: int) -> dict[str, Any]:
        return {"name": f"{who}_{number}", "image": f"{who}_ses-{number}_T1w.nii.gz"}

    scans = [{**visit("sub-a", 1), "role": "fitted", "fit": 0}, {**visit("sub-b", 1), "role": "held_out", "fit": 0}]
    kept = [visit("sub-b", 1)]
    new = [visit(f"sub-{who}", 2) for who in "abcd"]
    listed = Found(items=[*new])
    split = _keep_sides(Split(new[1:3], [new[0], new[3]], True, listed), kept, scans, chosen=False)
    assert [item["name"] for item in split.train] == ["sub-c_2", "sub-a_2"]
    assert [item["name"] for item in split.held_out] == ["sub-b_1", "sub-d_2", "sub-b_2"]
    with pytest.warns(UserWarning, match="1 held-out scans seem to be of people who are fitted.*: sub-a_2;"):
        split = _keep_sides(Split(new[1:3], [new[0], new[3]], True), kept, scans, chosen=False)  # the data say so
    assert [item["name"] for item in split.held_out] == ["sub-b_1", "sub-a_2", "sub-d_2", "sub-b_2"]
    # Where the user says who is fitted, an old scan of that person calibrates no longer.
    split = _keep_sides(Split(new[1:3], [new[3]], True), kept, scans, chosen=True)
    assert [item["name"] for item in split.held_out] == ["sub-d_2"]
    with pytest.raises(ValueError, match=r"must hold scans of other people than those .*, got sub-b"):
        _keep_sides(Split([new[1]], [new[1]], False), kept, scans, chosen=False)
    alone = _keep_sides(Split([new[1]], [new[1]], False), kept, scans, chosen=True)
    assert (alone.held_out, alone.is_held_out) == (alone.train, False)


def test_a_folder_of_all_scans_is_nobody_but_who_is_known_stays() -> None:
    def scan(image: str, **more: Any) -> dict[str, Any]:
        return {"name": image, "image": image, **more}

    old = [scan(f"/case_2024/{n}.nii", role=role, fit=0) for n, role in enumerate(("fitted", "held_out"))]
    old += [scan("/case_2024/sub-a/1.nii", role="held_out", fit=0)]
    new = [scan(f"/case_2024/new/{n}.nii") for n in "xyz"]
    split = _keep_sides(Split(new[:2], new[2:], True, Found(items=[*new])), old[1:], old, chosen=False)
    assert (len(split.train), len(split.held_out)) == (2, 3)
    new = [scan(f"/sub-a/ses-{n}/T1.nii") for n in "xy"]
    with pytest.raises(ValueError, match="got sub-a"):
        _keep_sides(Split(new, new, False, Found(items=[*new])), old[1:], old, chosen=False)


def test_copies_of_fitted_scans_that_are_held_out_are_named(
    cohort: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))[:2]
    copied = tmp_path / "another_name.nii.gz"
    shutil.copy(scans[0], copied)
    items = [{"name": path.name.removesuffix(".nii.gz"), "image": str(path)} for path in (*scans, copied)]
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    record_scans(folder, Split(items[:1], items[1:2], True), [], {})
    assert not caplog.messages
    record_scans(folder, Split(items[:1], items[1:], True), [], {})
    assert caplog.messages == [
        "warning: 1 held-out scans are copies of fitted ones, so thresholds are too low: another_name"
    ]


def test_a_series_whose_files_were_renamed_is_a_copy(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [tmp_path / name for name in ("one", "copy", "other")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "VERSION").write_text("1")
        for slice_ in range(3):
            (folder / f"{(number + slice_) % 3}.dcm").write_text(f"{slice_} of {number // 2}, the same size")
    items = [{"name": path.name, "image": str(path)} for path in folders]
    record_scans(shutil.copytree(bundle, tmp_path / "bundle"), Split(items[:1], items[1:], True), [], {})
    assert caplog.messages == ["warning: 1 held-out scans are copies of fitted ones, so thresholds are too low: copy"]


def test_a_pair_of_files_under_other_names_is_a_copy(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = []
    for name, voxels in (("one", b"12345678"), ("copy", b"12345678"), ("other", b"87654321")):
        (tmp_path / f"{name}.mhd").write_text(f"NDims = 3\nElementDataFile = {name}.raw\n")
        (tmp_path / f"{name}.raw").write_bytes(voxels * 16)
        items.append({"name": name, "image": str(tmp_path / f"{name}.mhd")})
    record_scans(shutil.copytree(bundle, tmp_path / "bundle"), Split(items[:1], items[1:], True), [], {})
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["copy"]


def test_a_bundle_that_knows_pairs_by_their_headers_is_refused(tmp_path: Path) -> None:
    header = tmp_path / "a.hdr"
    header.write_bytes(b"header")
    (tmp_path / "a.img").write_bytes(b"voxels")
    scan = {"name": "a", "image": str(header), "sha256": file_sha256(header)}
    with pytest.raises(CheckpointError, match=r"old: knows .*a\.hdr by its header alone"):
        refuse_headers([scan], "old")
    refuse_headers([{**scan, "sha256": hash_scans([scan])[0]}], "new")


@pytest.mark.filterwarnings("default")  # the command line prints warnings in its own way
def test_scans_that_the_bundle_knows_are_not_added_twice(
    bundle: Path, cohort: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--images", str(cohort), "--out", str(tmp_path / "same"), "--update", str(bundle)]
    assert main(command) == 1
    assert "3 scans are in the bundle already" in (err := capsys.readouterr().err)
    assert "`images` must hold scans that the bundle has not seen" in err
    assert "subject" not in err  # who could be held out is no matter where there is nobody
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(cohort.parent / "imagesTr" / "train_000.nii.gz", images / "another_name.nii.gz")
    shutil.copy(new.parent / "imagesTr" / "train_000.nii.gz", images / "a_new_one.nii.gz")
    with pytest.warns(UserWarning, match="1 scans are in the bundle already"):
        fit([images], tmp_path / "mixed", update=bundle, **SAME)
    added = [scan["name"] for scan in load_provenance(tmp_path / "mixed")["scans"] if scan["fit"] == 1]
    assert added == ["a_new_one"]  # there are held-out scans already, so it need not be one


def test_an_updated_bundle_is_a_bundle(updated: Path, cohort: Path, tmp_path: Path) -> None:
    outcome = infer(updated, [cohort], tmp_path / "out", report=False)
    assert len(outcome.scans) == 4


def test_the_command_line_refuses_what_cannot_be_updated(
    bundle: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--images", str(new), "--update"]
    for arguments, message in [
        (
            [str(bundle), "--out", str(tmp_path / "a"), "--image-size", "28"],
            "`image_size` must be the bundle's own, 56",
        ),
        ([str(bundle), "--out", str(tmp_path / "a"), "--patch-fraction", "1"], "`patch_fraction` must be"),
        ([str(tmp_path), "--out", str(tmp_path / "b")], "has no fitted model to update"),
        ([str(bundle), "--out", str(tmp_path / "a"), "--covariates", str(new)], "`covariates` must be left out of an"),
        ([str(bundle), "--out", str(tmp_path / "a"), "--participants"], "`covariates` must be left out of an update"),
        ([str(bundle), "--out", str(tmp_path / "a"), "--regions", str(new)], "`regions` must be left out of an update"),
        (
            [str(bundle), "--out", str(tmp_path / "a"), "--match", "off"],
            "`match` must be the bundle's own, on",
        ),
        ([str(bundle), "--out", str(bundle)], "holds a fitted bundle already"),
    ]:
        assert main([*command, *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists(), "nothing was begun"


@pytest.mark.parametrize(
    "change", [{"recipe": 1}, {"scans": [{"name": 1}]}, {"scans": 3}, None], ids=["recipe", "scan", "scans", "text"]
)
def test_a_damaged_provenance_is_refused(bundle: Path, tmp_path: Path, change: dict[str, Any] | None) -> None:
    content = {**json.loads((bundle / "provenance.json").read_text()), **(change or {})}
    (tmp_path / "provenance.json").write_text("[" * 2000 if change is None else json.dumps(content))
    with pytest.raises(CheckpointError, match=r"readable (provenance|JSON file)"):
        load_provenance(tmp_path)
    with pytest.raises(CheckpointError, match="is missing"):
        load_provenance(tmp_path / "nowhere")
