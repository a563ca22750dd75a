# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch

import monai_dpmm_ad.utils.files as module
from monai_dpmm_ad.bundle import is_fitted, pack_bundle, read_settings, unpack_bundle, write_settings
from monai_dpmm_ad.bundle.provenance import FILE, load_provenance
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.label.refit import Scans, count_scans, refit_bundle, update_bundle
from monai_dpmm_ad.label.runner import BundleRunner
from monai_dpmm_ad.utils.files import exchange_folders, write_json

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("fit"))
    return tmp_path / "bundle"


@pytest.fixture
def normal(cohort: Path) -> list[str]:
    return sorted(str(path) for path in (cohort.parent / "imagesTs").glob("test_healthy*"))


def state_of(bundle: Path) -> dict[str, torch.Tensor]:
    return torch.load(bundle / "models" / "model.pt", weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_refit_takes_the_bundles_place_and_keeps_it(copy: Path, normal: list[str]) -> None:
    config = read_settings(copy)
    write_settings(copy, {"false_positive_rate": 0.07})
    old = state_of(copy)
    third = next(Path(normal[0]).parents[1].glob("imagesTr/*.nii.gz"))  # of a single fitted scan there is no place
    result = refit_bundle(copy, [*normal, str(third)], force=True, max_epochs=1)
    assert result.bundle == copy.resolve()
    assert not result.failures
    assert same(state_of(result.previous), old)
    assert not same(state_of(copy), old)
    assert int(state_of(copy)["calibration.num_scans"]) == 1  # one of the three was held out
    assert read_settings(copy) == config | {"false_positive_rate": 0.07}  # set by hand, kept
    assert sorted(path.name for path in copy.parent.iterdir()) == sorted([copy.name, result.previous.name])


def test_a_failed_refit_leaves_everything_as_it_was(copy: Path, tmp_path: Path, normal: list[str]) -> None:
    old = state_of(copy)
    (tmp_path / "scans").mkdir()
    bad = [str(tmp_path / "scans" / f"{number}.nii.gz") for number in range(2)]
    for path in bad:
        Path(path).write_text("hello")
    with pytest.raises((RuntimeError, ValueError), match="None of the 1 scans could be embedded"):
        refit_bundle(copy, bad, force=True)
    with pytest.raises(ValueError, match="at least 2 normal scans, got 1"):
        refit_bundle(copy, normal[:1])
    with pytest.raises(CheckpointError, match="no fitted bundle"):
        refit_bundle(tmp_path / "scans", normal)
    assert same(state_of(copy), old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "scans"]


def test_a_refit_on_fewer_scans_is_refused(copy: Path, normal: list[str]) -> None:
    old = state_of(copy)
    with pytest.raises(ValueError, match="2 scans in the place of the 5 behind the bundle"):
        refit_bundle(copy, normal)
    assert same(state_of(copy), old)


def test_an_update_adds_and_keeps_the_calibration(copy: Path, normal: list[str]) -> None:
    result = update_bundle(copy, normal[:1], max_epochs=1)
    assert (result.before, result.after) == (Scans(3, 2, True), Scans(4, 2, True))
    assert {scan["name"] for scan in load_provenance(copy)["scans"] if scan["fit"] == 1} == {"test_healthy_000"}
    assert load_provenance(result.previous)["scans"] != load_provenance(copy)["scans"]
    with pytest.raises(ValueError, match="scans that the bundle has not seen, got none"):
        update_bundle(copy, normal[:1])


def test_an_update_that_would_calibrate_on_less_is_refused(copy: Path, normal: list[str]) -> None:
    provenance = load_provenance(copy)  # of a bundle whose held-out scans are not on this machine
    for scan in provenance["scans"]:
        scan["image"] = f"/not/here/{scan['name']}.nii.gz"
    write_json(copy / FILE, provenance)
    with pytest.raises(ValueError, match="would rest on 1 held-out scans, today on 2"):
        update_bundle(copy, normal)
    result = update_bundle(copy, normal, force=True, max_epochs=1)
    assert result.after == Scans(4, 1, True)
    (copy / FILE).unlink()
    with pytest.raises(CheckpointError, match="nothing is known of the fitted scans"):
        update_bundle(copy, normal)


def test_a_bundle_that_was_handed_on_is_served_and_fitted_anew(copy: Path, normal: list[str], tmp_path: Path) -> None:
    root = unpack_bundle(pack_bundle(copy, tmp_path / "packed.zip"), tmp_path / "house" / "unpacked")
    ours, theirs = (BundleRunner(folder).run(normal[0]) for folder in (copy, root))
    assert torch.equal(ours.scan["pred"], theirs.scan["pred"])
    assert ours.row == theirs.row
    assert count_scans(root) == Scans(3, 2, True)
    with pytest.raises(CheckpointError, match="nothing is known of the fitted scans"):
        update_bundle(root, normal)
    with pytest.raises(ValueError, match="2 scans in the place of the 5 behind the bundle"):
        refit_bundle(root, normal)
    result = refit_bundle(root, normal, force=True, max_epochs=1)
    assert result.after == Scans(1, 1, True)
    assert BundleRunner(root).run(normal[0]).row.score > 0  # with the embedder that came with the old one


@pytest.mark.parametrize("at_once", [True, False])
def test_folders_change_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(module, "_exchange_at_once", lambda first, second: False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    exchange_folders(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "file").read_text() == "b"
    assert (tmp_path / "b" / "file").read_text() == "a"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_always_finds_a_whole_bundle(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(copy, other)
    if not module._exchange_at_once(copy, other):
        pytest.skip("this file system cannot exchange two names in one step")
    missing, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            if not is_fitted(copy):
                missing.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(300):
            exchange_folders(other, copy)
    finally:
        stop.set()
        reader.join()
    assert not missing


def test_when_the_second_rename_fails_the_old_folder_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_exchange_at_once", lambda first, second: False)
    (tmp_path / "old").mkdir()
    with pytest.raises(FileNotFoundError, match="fresh"):
        exchange_folders(tmp_path / "fresh", tmp_path / "old")
    assert (tmp_path / "old").is_dir()
