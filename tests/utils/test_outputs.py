# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A folder of results: one writer, and nothing in it is replaced that this package did not write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_dpmm_ad.utils.files import PARTIAL, remove_file, replace_file, write_csv
from monai_dpmm_ad.utils.outputs import OutputFolder


def write(path: Path, text: str, owner: str = "") -> None:
    replace_file(path, lambda temporary: temporary.write_text(text), owner=owner)


def test_a_file_of_the_user_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "sub1_mask.nii.gz"
    path.write_text("an expert's")
    with OutputFolder(tmp_path):
        for touch in (lambda: write(path, "ours"), lambda: remove_file(path)):
            with pytest.raises(FileExistsError, match=r"was not written by this program.*--overwrite"):
                touch()
    assert path.read_text() == "an expert's"
    assert not list(tmp_path.glob(f"{PARTIAL}*"))
    with OutputFolder(tmp_path, overwrite=True):
        write(path, "ours")
    assert path.read_text() == "ours"


def test_what_was_written_here_may_be_replaced_by_a_later_run_until_someone_edits_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.csv"
    for number in (1, 2):
        with OutputFolder(tmp_path / "new"):
            write_csv(path, ("a",), [(number,)])
    path.write_text("a\n3\n")
    with OutputFolder(tmp_path / "new"), pytest.raises(FileExistsError, match="or was changed since"):
        remove_file(path)
    path.write_text("a\n1\n")  # what the first run wrote is ours as well: a crash may bring it back
    with OutputFolder(tmp_path / "new"):
        remove_file(path)
    assert not path.exists()


def test_the_map_of_another_scan_of_the_same_name_stays(tmp_path: Path) -> None:
    path = tmp_path / "FLAIR_anomaly.nii.gz"
    with OutputFolder(tmp_path):
        write(path, "first", owner="/patient1/FLAIR.nii.gz")
        write(path, "first again", owner="/patient1/FLAIR.nii.gz")
    with OutputFolder(tmp_path), pytest.raises(FileExistsError, match="is of another scan, /patient1/FLAIR"):
        write(path, "second", owner="/patient2/FLAIR.nii.gz")
    assert path.read_text() == "first again"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")
def test_links_pipes_and_folders_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with OutputFolder(tmp_path):
        for name in ("link", "pipe", "folder"):
            with pytest.raises(FileExistsError, match="not written by this program"):
                write(tmp_path / name, "ours")


def test_a_damaged_record_speaks_for_no_file_and_spoils_no_other(tmp_path: Path) -> None:
    with OutputFolder(tmp_path):
        write(tmp_path / "a.csv", "a")
        write(tmp_path / "b.csv", "b")
    (log,) = tmp_path.glob(".written-*")
    first, second = (line for line in log.read_bytes().splitlines() if line)
    log.write_bytes(b'\xff[[[\n{"file": 3}\n' + second + b"\n" + first[:-9])
    with OutputFolder(tmp_path):
        with pytest.raises(FileExistsError):
            write(tmp_path / "a.csv", "new")
        write(tmp_path / "b.csv", "new")
    with OutputFolder(tmp_path):
        write(tmp_path / "b.csv", "newer")


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    code = (
        "import sys; from monai_dpmm_ad.utils.outputs import OutputFolder\n"
        f"with OutputFolder({str(tmp_path)!r}): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(BlockingIOError, match="another process is writing to this folder"):
            OutputFolder(tmp_path).hold()
        other.communicate(b"")
    with OutputFolder(tmp_path), OutputFolder(tmp_path):  # a command and what it runs
        write(tmp_path / "a", "a")


def test_leftovers_are_removed_and_files_that_look_alike_are_not(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / f"{PARTIAL}1.nii").touch()
    (tmp_path / "sub" / f"{PARTIAL}2.nii").touch()
    (tmp_path / ".partial-download").touch()
    with OutputFolder(tmp_path) as folder:
        folder.clean()
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))
    assert (tmp_path / ".partial-download").exists()


def test_no_empty_folder_is_left_of_what_is_discarded(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("bids/sub-1/anat/a.nii", "b/b_mask.nii", "b/notes.txt")]
    with OutputFolder(tmp_path) as folder:
        for path in paths[:2]:
            write(path, "ours")
        paths[2].write_text("mine")
        for path in paths:
            folder.discard(path)
    assert sorted(path.name for path in tmp_path.rglob("*") if not path.name.startswith(".")) == ["b", "notes.txt"]


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file; name a folder with --out"):
        OutputFolder(tmp_path / "out").hold()


def test_summaries_go_with_the_first_change_of_a_scan_whether_replaced_or_removed(tmp_path: Path) -> None:
    for change in ("replace", "remove"):
        out = tmp_path / change
        with OutputFolder(out) as folder:
            write(out / "a_map.nii", "old", owner="a")
            write(out / "scores.csv", "of old maps")
        with OutputFolder(out) as folder:
            folder.summaries = ("scores.csv", "report.html")
            write(out / "report.html", "new")
            if change == "replace":
                write(out / "a_map.nii", "new", owner="a")
            else:
                folder.discard_earlier("a", ["a_map"])
            assert not (out / "scores.csv").exists()
            assert (out / "report.html").exists(), "it is this run's"
