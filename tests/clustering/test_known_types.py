# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from monai_dpmm_ad.clustering import find_types_file, read_types


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_types_are_found_by_file_name(tmp_path: Path) -> None:
    file = write(tmp_path / "types.csv", "file,type\na.png,glioma\nb.png,\n")
    assert read_types(file, ["/x/a.png", "/x/b.png", "/x/c.png"]) == ["glioma", None, None]


def test_the_split_tells_files_of_one_name_apart(tmp_path: Path) -> None:
    file = write(tmp_path / "types.csv", "split,file,type\nvalid,a.png,glioma\ntest,a.png,other\n")
    assert read_types(file, ["/x/test/Ungood/a.png", "/x/valid/a.png", "/x/a.png"]) == ["other", "glioma", None]


def test_the_table_is_looked_for_above_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "Ungood" / "img"
    folder.mkdir(parents=True)
    assert find_types_file([folder]) is None
    file = write(tmp_path / "types.csv", "file,type\n")
    assert find_types_file([folder]) == file


@pytest.mark.parametrize("text", ["name,kind\na,b\n", ""])
def test_other_columns_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"types\.csv: must have the columns"):
        read_types(write(tmp_path / "types.csv", text), ["a"])


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "types.csv").write_bytes(b"file,type\n\xff\xfe\x00,\n")
    with pytest.raises(ValueError, match="UTF-8"):
        read_types(tmp_path / "types.csv", ["a"])
