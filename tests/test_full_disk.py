# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A disk that is full at any moment, and folders that cannot be written: a clear error, nothing damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FAST
from soak.interruptions import assert_same, check_whole

from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.utils.files import PARTIAL

# TensorBoard writes in a thread of its own, which ends with its own complaint.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class SmallDisk:
    """A file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, kib: int) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def resize(self, kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    if not shutil.which("mount") or not disk.mount(64):
        pytest.skip("needs the right to mount a file system")
    disk.unmount()
    yield disk
    disk.unmount()


def kibibytes(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


def check_full_disk(
    command: list[str], expected: Path, disk: SmallDisk, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Run on disks too small by more or less; with room again the same command must give what it always gives."""
    assert sizes
    for size in sizes:
        assert disk.mount(size)
        out = disk.folder / "out"
        capsys.readouterr()
        assert main([*command, "--out", str(out)]) == 1
        said = capsys.readouterr().err
        assert any(word in said for word in ("No space left", "is the disk full")), said
        assert "Traceback" not in said
        check_whole(out)
        assert not list(out.rglob(f"{PARTIAL}*"))
        disk.resize(2 * kibibytes(expected) + 1024)
        assert main([*command, "--out", str(out)]) == 0
        assert_same(expected, out)
        disk.unmount()


@pytest.mark.slow
def test_fit_on_a_full_disk(
    cohort: Path, tiny_vit: Path, disk: SmallDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--image-size", str(FAST["image_size"]), "--num-components", "8", "--max-epochs", "1"]
    command = ["fit", "--images", str(cohort), "--embedder", str(tiny_vit), *options]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    needed = kibibytes(tmp_path / "out")
    check_full_disk(command, tmp_path / "out", disk, list(range(16, needed - 8, needed // 5)), capsys)


@pytest.mark.slow
def test_infer_on_a_full_disk(
    bundle: Path, cohort: Path, disk: SmallDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["infer", "--bundle", str(bundle), "--images", str(cohort)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    needed = kibibytes(tmp_path / "out")
    check_full_disk(command, tmp_path / "out", disk, list(range(16, needed - 8, needed // 5)), capsys)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("graph", ["torchscript", "onnx"])
def test_export_on_a_full_disk(bundle: Path, disk: SmallDisk, capsys: pytest.CaptureFixture[str], graph: str) -> None:
    assert disk.mount(64)
    out = disk.folder / f"graph.{graph}"
    command = ["export", "--bundle", str(bundle), "--format", graph, "--out", str(out)]
    assert main(command) == 1
    assert capsys.readouterr().err == f"error: {out}: No space left on device\n"
    assert not os.listdir(disk.folder)
    disk.resize(65536)
    assert main(command) == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_cannot_be_written(
    bundle: Path, cohort: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    out = ["--out", str(tmp_path / "out")]
    for command in (
        ["fit", "--images", str(cohort), "--embedder", str(tiny_vit), *out],
        ["infer", "--bundle", str(bundle), "--images", str(cohort), *out],
    ):
        assert main(command) == 1
        assert "Permission denied" in capsys.readouterr().err
    tmp_path.chmod(0o700)


@pytest.mark.slow
def test_a_read_only_file_system(
    bundle: Path, cohort: Path, tiny_vit: Path, disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert disk.mount(2 * kibibytes(bundle) + 1024)
    folder = disk.folder
    shutil.copytree(bundle, folder / "bundle")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    out = ["--out", str(folder / "out")]
    for command in (
        ["fit", "--images", str(cohort), "--embedder", str(tiny_vit), *out],
        ["infer", "--bundle", str(bundle), "--images", str(cohort), *out],
        ["evaluate", "--bundle", str(bundle), "--data", str(cohort), *out],
        ["cluster", "--bundle", str(bundle), "--images", str(cohort), *out],
        ["export", "--bundle", str(bundle), "--out", str(folder / "graph.onnx")],
        ["pretrain", "--images", str(cohort.parent / "imagesTr"), "--steps", "1", "--batch-size", "2", *out],
        ["demo", *out],
    ):
        assert main(command) == 1, command
        said = capsys.readouterr().err
        assert "Read-only file system" in said, said
        assert str(folder) in said
        assert "Traceback" not in said
    # A bundle on a read-only disk is as good as any.
    assert (
        main(["infer", "--bundle", str(folder / "bundle"), "--images", str(cohort), "--out", str(folder) + "-b"]) == 0
    )
