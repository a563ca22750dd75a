# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""One bad entry never ends a batch, and no name can act where it is shown or written."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import FAST
from helpers.dicom_series import write_series
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monai_dpmm_ad.bundle import read_settings
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.dataset import ScanFailure, read_failures, write_failures
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.reporting import cohort as cohort_report
from monai_dpmm_ad.transforms import LoadScan
from monai_dpmm_ad.utils.files import spreadsheet_safe
from monai_dpmm_ad.utils.text import printable

BAD_NAME = os.fsdecode(b"scan\xff\xfe.nii.gz")
EVIL_NAME = "=a\x1b[2Jb\r\nc.nii.gz"


def nested(depth: int) -> bytes:
    """A DICOM file whose header holds sequences in sequences."""
    begin = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    syntax = b"1.2.840.10008.1.2.1\0"
    meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    length = b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta))
    return bytes(128) + b"DICM" + length + meta + begin * depth + end * depth


@pytest.fixture
def odd(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one good scan among everything that a folder can hold."""
    folder = tmp_path / "odd"
    folder.mkdir()
    scan = cohort.parent / "imagesTs" / "test_healthy_000.nii.gz"
    shutil.copy(scan, folder / "good.nii.gz")
    for name in (BAD_NAME, EVIL_NAME):
        (folder / name).write_bytes(b"no image")
    os.mkfifo(folder / "pipe.nii.gz")
    os.mkfifo(folder / "pipe")  # has it a DICOM preamble?
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(folder)  # the address of a socket is short
    listening.bind("socket.nii.gz")
    (folder / "null.nii.gz").symlink_to("/dev/zero")
    (folder / "nested").mkdir()
    (folder / "nested" / "a.dcm").write_bytes(nested(3000))
    (folder / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:  # root may look into every folder
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    yield folder
    listening.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and sockets")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", ["infer", "fit"])
def test_every_bad_entry_is_named_and_the_rest_is_done(
    bundle: Path, tiny_vit: Path, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    out = tmp_path / "out"
    if command == "fit":
        (tmp_path / "held").mkdir()
        shutil.copy(odd / "good.nii.gz", tmp_path / "held" / "other.nii.gz")
        options = ["--images", str(odd), "--embedder", str(tiny_vit), "--image-size", "56", "--max-epochs", "1"]
        options += ["--num-components", "4", "--held-out", str(tmp_path / "held" / "other.nii.gz")]
    else:
        options = ["--bundle", str(bundle), "--images", str(odd)]
    assert main([command, *options, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    reasons = {Path(failure.path).name: failure.reason for failure in read_failures(out)}
    expected = {printable(name) for name in (BAD_NAME, EVIL_NAME)}
    expected |= {"pipe.nii.gz", "socket.nii.gz", "null.nii.gz", "a.dcm", "locked"}
    assert set(reasons) == expected
    kinds = {name: reasons[name] for name in ("pipe.nii.gz", "socket.nii.gz", "null.nii.gz")}
    assert list(kinds.values()) == ["is a named pipe, no file", "is a socket, no file", "is a device, no file"]
    assert reasons["locked"] == "cannot be read: permission denied"
    assert all(character.isprintable() or character == "\n" for character in said)
    if command != "fit":
        with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == ["good"]


@pytest.mark.filterwarnings("default")
def test_a_name_that_is_no_utf_8_is_mapped_and_written_safely(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"in\xff")
    folder.mkdir()
    shutil.copy(cohort.parent / "imagesTs" / "test_healthy_000.nii.gz", folder / BAD_NAME)
    shutil.copy(cohort.parent / "imagesTs" / "test_healthy_001.nii.gz", folder / EVIL_NAME)
    out = tmp_path / "out"
    command = ["infer", "--bundle", str(bundle), "--images", str(folder), "--out", str(out)]
    assert main(command) == 0
    assert main(command) == 0, "what is finished is found again"
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(row["image"].isprintable() for row in rows)
    assert not list(out.glob("*[\x1b\r\n=]*"))
    (out / "report.html").read_text(encoding="utf-8")


@given(st.text())
def test_no_cell_acts(text: str) -> None:
    cell = spreadsheet_safe(text)
    assert cell.isprintable()
    assert not cell.strip().startswith(("=", "+", "-", "@"))
    assert printable(printable(text)) == printable(text)
    if text.isprintable() and not text.strip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")):
        assert cell == text


def test_failures_of_any_name_can_be_written(tmp_path: Path) -> None:
    write_failures(tmp_path, [ScanFailure("a", BAD_NAME, "is damaged\nor not"), ScanFailure("b", EVIL_NAME, "=1+1")])
    found = read_failures(tmp_path)
    assert [failure.reason for failure in found] == ["is damaged\\nor not", "'=1+1"]
    assert found[0].path == "scan\\udcff\\udcfe.nii.gz"


def test_damaged_headers_among_series_are_items_of_their_own(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(100, 20, (12, 10, 4))
    write_series(tmp_path / "whole", volume, np.diag([2.0, 2.0, 3.0, 1.0]))
    for number, depth in enumerate((300, 3000)):
        (tmp_path / f"bad{number}").mkdir()
        (tmp_path / f"bad{number}" / "a.dcm").write_bytes(nested(depth))
    items = resolve_datalist([tmp_path])
    assert tmp_path / "whole" in [Path(item["image"]) for item in items]
    for item in items:
        if Path(item["image"]).name != "whole":
            with pytest.raises(ScanError, match=r".+: .+"):
                LoadScan()(item["image"])


@pytest.mark.parametrize("moment", ["before", "while", "after"])
def test_a_file_that_vanishes_is_a_failure_by_name(
    bundle: Path,
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    moment: str,
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        shutil.copy(cohort.parent / "imagesTs" / f"test_healthy_00{number}.nii.gz", folder / f"{number}.nii.gz")
    victim = folder / "1.nii.gz"
    target, name = {
        "before": (LoadScan, "__call__"),
        "while": (__import__("monai_dpmm_ad.transforms.save", fromlist=["_"]), "write_map"),
        "after": (cohort_report, "write_report"),
    }[moment]
    original = getattr(target, name)

    def vanish(*args: Any, **kwargs: Any) -> Any:
        victim.unlink(missing_ok=True)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, vanish)
    status = main(["infer", "--bundle", str(bundle), "--images", str(folder), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    if moment == "after":  # its map is there; the report has its row, and says why it has no picture
        assert status == 0
        assert "No picture" in (tmp_path / "out" / "report.html").read_text()
    else:
        assert status == 1
        assert f"failed: {victim}: " in said
        assert (tmp_path / "out" / "0_mask.nii.gz").is_file()


def test_a_picture_among_volumes_does_not_turn_places_off_without_a_word(
    cohort: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    values = nib.load(cohort.parent / "imagesTr" / "train_000.nii.gz").get_fdata()[:, :, 4]
    Image.fromarray((255 * values / values.max()).astype(np.uint8)).save(tmp_path / "picture.png")
    outcome = fit([cohort, tmp_path / "picture.png"], tmp_path / "bundle", embedder_name=str(tiny_vit), **FAST)
    assert read_settings(tmp_path / "bundle")["normative"] == "off"
    assert "maps are not judged by place: that takes two fitted volumes or more, and no picture" in str(outcome.note)
