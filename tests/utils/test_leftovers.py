# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a killed or interrupted command left goes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_dpmm_ad.utils.files import PARTIAL, partial_prefix, replace_file
from monai_dpmm_ad.utils.leftovers import remove_leftovers, without_leftovers


@pytest.fixture
def leftovers(tmp_path: Path) -> Path:
    """A file and a folder that were being made of ``a.zip``, and a file of another name."""
    (tmp_path / f"{partial_prefix(Path('a.zip'))}1.zip").touch()
    (tmp_path / f"{partial_prefix(Path('a.zip'))}2" / "bundle").mkdir(parents=True)
    (tmp_path / f"{partial_prefix(Path('b.zip'))}3.zip").touch()
    return tmp_path


def test_folders_of_a_killed_command_are_removed_too(leftovers: Path) -> None:
    (leftovers / "mine.zip").touch()
    remove_leftovers(leftovers)
    assert [path.name for path in leftovers.iterdir()] == ["mine.zip"]


def test_only_the_leftovers_of_one_file_are_removed(leftovers: Path) -> None:
    with without_leftovers(leftovers / "a.zip"):
        assert [path.name for path in leftovers.iterdir()] == [f"{partial_prefix(Path('b.zip'))}3.zip"]


@pytest.mark.parametrize("there", [False, True])
def test_a_signal_before_the_end_leaves_what_was_there(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "a.txt"
    if there:
        path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.with_name(f"{partial_prefix(path)}more").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), without_leftovers(path):
        replace_file(path, write)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"] * there


def test_a_signal_that_comes_when_all_is_done_is_too_late(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with without_leftovers(path):
        replace_file(path, lambda temporary: temporary.write_text("new"))
        (tmp_path / f"{PARTIAL}another").touch()
        raise KeyboardInterrupt
    assert path.read_text() == "new"
