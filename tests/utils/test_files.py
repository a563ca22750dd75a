# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from monai_dpmm_ad.utils.files import lock_folder, read_json, replace_file, write_csv, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_signal_within_a_writer_stays_a_signal(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        try:
            temporary.write_text("half")
            raise KeyboardInterrupt
        finally:  # as torch's writer, which cannot end its archive any more
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1836800 vs 1836688")

    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "model.pt", write)
    assert os.listdir(tmp_path) == []


def test_suffixes_are_kept_and_folders_made(tmp_path: Path) -> None:
    seen = []
    replace_file(tmp_path / "new" / "map.nii.gz", lambda path: (seen.append(path.name), path.touch()))
    assert seen[0].endswith(".nii.gz")
    assert (tmp_path / "new" / "map.nii.gz").is_file()


def test_csv_does_not_run_formulas(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("name", "score"), [("=cmd()", 1.5), ('ok, "quoted"', None)])
    with open(tmp_path / "a.csv", newline="") as file:
        assert list(csv.reader(file)) == [["name", "score"], ["'=cmd()", "1.5"], ['ok, "quoted"', ""]]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: is not a readable JSON file \("):
        read_json(path)


def test_missing_and_huge_json_is_refused_and_other_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match=r"a\.json: is missing$"):
        read_json(path)
    write_json(path, {"a": [1, None]})
    assert read_json(path, max_bytes=path.stat().st_size) == {"a": [1, None]}
    with pytest.raises(ValueError, match="it has 33 bytes, more than 32"):
        read_json(path, max_bytes=path.stat().st_size - 1)


def test_a_folder_is_locked_until_it_is_released(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    with pytest.raises(BlockingIOError, match="being written to by another process"):
        lock_folder(tmp_path)
    lock.release()
    lock_folder(tmp_path).release()
