# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Interruptions of the writing: a killed process, an exception, a full disk, a second writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monai_dpmm_ad.embedding import EmbeddingStore, StoreWriter
from monai_dpmm_ad.errors import EmbeddingStoreError

# Run as a script: write twelve sources slowly enough to be killed in between.
SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[3])
from test_store_writer import write_all
write_all(sys.argv[1], pause=float(sys.argv[2]))
"""


def make_rows(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    rows = 20 + 7 * number % 30
    return {
        "patches": torch.randn(rows, 1, 8, generator=generator),
        "location": torch.rand(rows, 3, generator=generator),
        "slice_index": torch.arange(rows) // 10,
        "cls": torch.randn(6, 1, 8, generator=generator),
    }


def write_all(folder: str | Path, sources: range = range(12), pause: float = 0.0) -> list[int]:
    """Write the sources that are not done; return their numbers."""
    written = []
    with StoreWriter(folder, {"backbone": "x"}, patch_fraction=0.5, seed=1, rows_per_shard=30) as writer:
        for number in sources:
            if not writer.done(f"scan{number}"):
                writer.write(f"scan{number}", **make_rows(number))
                written.append(number)
                print(number, flush=True)
                time.sleep(pause)
    return written


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_all(folder)
    return content(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_a_killed_writing_continues_to_the_same_bytes(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "0.05", str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 7:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    interrupted = EmbeddingStore(tmp_path)
    assert not interrupted.complete
    assert 0 < len(interrupted.sources) < 12
    interrupted.verify()
    written = write_all(tmp_path)
    assert len(interrupted.sources) + len(written) == 12
    assert content(tmp_path) == uninterrupted
    assert EmbeddingStore(tmp_path).complete


class Killed(BaseException):
    """Ends the writing where it is; the writer's own handling is switched off by the test."""


@pytest.mark.parametrize("step", range(1, 60, 3))
def test_death_between_any_two_file_operations_loses_no_more_than_a_source(
    tmp_path: Path,
    uninterrupted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
) -> None:
    """As SIGKILL, at every rename and removal in turn: nothing after the fatal one reaches the disk."""
    count = 0

    def dying(function):  # type: ignore[no-untyped-def]
        def run(*args, **options):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if count >= step:
                raise Killed
            return function(*args, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        patch.setattr("monai_dpmm_ad.embedding.store.writer.time.monotonic", lambda: 0.0)  # saving takes no time
        with pytest.raises(Killed):
            write_all(tmp_path)
    written = [f"scan{number}" for number in capsys.readouterr().out.split()]
    if (tmp_path / "manifest.json").exists():
        store = EmbeddingStore(tmp_path)
        store.verify()
        assert store.sources[: len(written)] == written
    else:
        assert not written
    write_all(tmp_path)
    assert content(tmp_path) == uninterrupted


def test_an_exception_keeps_what_was_written(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    def interrupted() -> None:
        with StoreWriter(tmp_path, {"backbone": "x"}, patch_fraction=0.5, seed=1, rows_per_shard=30) as writer:
            writer.write("scan0", **make_rows(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    store = EmbeddingStore(tmp_path)
    assert store.sources == ["scan0"]
    assert not store.complete
    assert write_all(tmp_path) == list(range(1, 12))
    assert content(tmp_path) == uninterrupted


def test_a_grown_store_equals_one_written_at_once(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    for stop in (1, 2, 5, 5, 12):
        write_all(tmp_path, range(stop))
        assert len(EmbeddingStore(tmp_path).sources) == stop
    assert content(tmp_path) == uninterrupted


def test_a_source_is_written_once(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, {}) as writer:
        writer.write("scan", **make_rows(0))
        writer.write("scan", **make_rows(1))
        assert writer.done("scan")
        assert not writer.done("other")
    assert EmbeddingStore(tmp_path).num_rows == len(make_rows(0)["patches"])


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, {}) as first:
        with pytest.raises(EmbeddingStoreError, match="another process is writing this store"):
            StoreWriter(tmp_path, {})
        first.write("scan", **make_rows(0))
    with StoreWriter(tmp_path, {}) as second:
        assert second.done("scan")
    with pytest.raises(ValueError, match="`write` must come before `close`"):
        second.write("more", **make_rows(1))


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, range(4))
    before = content(tmp_path)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("monai_dpmm_ad.embedding.store.writer.save_file", full)
        with pytest.raises(EmbeddingStoreError, match="No space left on device"):
            write_all(tmp_path)
    assert content(tmp_path) == before
    assert EmbeddingStore(tmp_path).sources == ["scan0", "scan1", "scan2", "scan3"]


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("x", encoding="utf-8")
    with pytest.raises(EmbeddingStoreError, match="the folder holds other files"):
        StoreWriter(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["thesis.docx"]
    with pytest.raises(EmbeddingStoreError, match="cannot be written"):
        StoreWriter(tmp_path / "thesis.docx", {})


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EmbeddingStoreError, match="cannot be written"):
        StoreWriter(tmp_path, {})


def test_a_damaged_last_shard_is_not_taken_up(tmp_path: Path) -> None:
    write_all(tmp_path, range(1))
    shard = next(tmp_path.glob("shard-*"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EmbeddingStoreError, match="the shard is damaged"):
        write_all(tmp_path)


def test_fingerprints_must_be_plain_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        StoreWriter(tmp_path / "a", {"path": Path("x")})
    with pytest.raises(ValueError, match="JSON compliant"):
        StoreWriter(tmp_path / "b", {"size": float("nan")})
    with StoreWriter(tmp_path / "c", {"size": (1, 2)}):
        pass
    assert EmbeddingStore(tmp_path / "c", {"size": [1, 2]}).fingerprint == {"size": [1, 2]}
