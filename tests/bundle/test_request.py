# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The same fit, started again over its own finished bundle, and over one that was killed while it began."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import FAST

from monai_dpmm_ad.bundle import create_bundle
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.run import FITTED_ALREADY
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import PARTIAL, replace_file


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def images(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    for path in sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))[:2]:
        shutil.copy(path, folder)
    (folder / "damaged.nii.gz").write_text("hello")
    return folder


@pytest.fixture
def command(images: Path, cohort: Path, tiny_vit: Path, tmp_path: Path) -> list[str]:
    paths = ["--images", str(images), "--held-out", str(cohort), "--out", str(tmp_path / "bundle")]
    options = ["--embedder", str(tiny_vit), "--image-size", str(FAST["image_size"]), "--num-components", "8"]
    return ["fit", *paths, *options, "--max-epochs", "1"]


def test_the_same_fit_again_does_nothing_and_says_the_same(
    command: list[str], images: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    assert "failed: " in (said := capsys.readouterr().err)
    before = content(tmp_path / "bundle")
    assert main(command) == 1
    again = capsys.readouterr().err
    assert FITTED_ALREADY in again
    assert [line for line in again.splitlines() if line.startswith("failed: ")] == [
        line for line in said.splitlines() if line.startswith("failed: ")
    ]
    for other in ([*command, "--seed", "1"], [*command[:-1], "2"]):  # another fit would overwrite this one
        assert main(other) == 1
        assert "holds a fitted bundle already" in capsys.readouterr().err
    scan = next((cohort.parent / "imagesTs").glob("*.nii.gz"))
    shutil.copy(scan, images)
    assert main(command) == 1
    assert "holds a fitted bundle already" in capsys.readouterr().err
    (images / scan.name).unlink()
    assert content(tmp_path / "bundle") == before


def test_a_bundle_is_taken_up_wherever_its_making_was_killed(
    cohort: Path, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(create_bundle(tmp_path / "expected"))
    for step in range(len(expected)):
        count = 0

        def dying(path: Path, write: object) -> None:
            nonlocal count
            if count == step:  # noqa: B023
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                (Path(path).parent / f"{PARTIAL}half.json").write_text("{")
                raise KeyboardInterrupt
            count += 1
            replace_file(path, write)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            for module in ("bundle.folder", "utils.files"):  # configs that are made, not copied, are written there
                patch.setattr(f"monai_dpmm_ad.{module}.replace_file", dying)
            with pytest.raises(KeyboardInterrupt):
                create_bundle(tmp_path / str(step))
        assert content(create_bundle(tmp_path / str(step))) == expected
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="no bundle"):
        fit([cohort], tmp_path / "other", embedder_name=str(tiny_vit), **FAST)
