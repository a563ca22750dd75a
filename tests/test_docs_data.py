# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The examples of docs/data.md: each file is made, and found as the page says."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.scans import make_head, write_slice
from PIL import Image

from monai_dpmm_ad.data import Found, find_scans, resolve_datalist
from monai_dpmm_ad.data.subjects import name_subject
from monai_dpmm_ad.transforms.intensity import CT_WINDOWS

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
TREES = re.findall(r"^```tree\n\$ monai-dpmm-ad (.*?)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def make(path: Path, number: int) -> None:
    """Write a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = make_head(seed=number)
    if path.name.endswith(".nii.gz"):
        data = (head > 300).astype(np.uint8) if "labels" in path.parent.name else head
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    elif path.suffix == ".png":
        Image.fromarray((head[:, :, 5] / 4).astype(np.uint8)).save(path)
    elif path.name.startswith("IM"):
        write_slice(path, head[:, :, number].T, number)
    elif path.name in ("SCOUT", "SEG"):
        tags = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]} if path.name == "SCOUT" else {"Modality": "SEG"}
        tags |= {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"} if path.name == "SEG" else {}
        write_slice(path, head[:, :, 0].T, 0, series=path.name.replace("SCOUT", "5").replace("SEG", "6"), **tags)
    else:
        path.write_text("{}")


def search(command: str, root: Path) -> Found:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--data" if command.startswith("evaluate") else "--images", dest="images")
    parser.add_argument("--suffix")
    parser.add_argument("--pattern")
    options = parser.parse_args(shlex.split(command))
    section = "training" if options.command == "fit" else "test"
    return find_scans(root / options.images, section=section, suffix=options.suffix, pattern=options.pattern)


@pytest.mark.parametrize("number", range(len(TREES)))
def test_each_tree_is_read_as_the_page_says(number: int, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    command, block = TREES[number]
    lines = [[part.strip() for part in line.split("->")] for line in block.splitlines()]
    for index, (name, _) in enumerate(lines):
        make(tmp_path / name, index)
    found = search(command, tmp_path)
    assert not found.failures
    taken = {}
    for item in found.items:
        for file in [item["image"]] if isinstance(item["image"], str) else item["image"]:
            taken[file] = item
    left_out = {thing.path: thing.kind for thing in found.left_out}
    for name, said in lines:
        path = str(tmp_path / name)
        word, _, rest = said.partition(", ")
        assert (path in taken, path in left_out) == (word == "taken", word == "left out"), name
        if word == "left out":
            assert left_out[path] == rest
        if rest.startswith("subject"):
            assert (name_subject(taken[path]) or "").removeprefix("subject:") == rest.removeprefix("subject ")
        if rest.startswith("mask"):
            assert taken[path]["label"] == str(tmp_path / rest.removeprefix("mask "))


def test_the_page_has_an_example_of_every_kind_of_tree() -> None:
    assert len(TREES) == 6
    assert "left out, localisers" in PAGE


def test_the_datalist_of_the_page_is_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "list.json").write_text(json.dumps(json.loads(block)))
    train, test = (resolve_datalist(tmp_path / "list.json", section=name) for name in ("training", "test"))
    assert [name_subject(item) for item in train] == ["subject:p1", "subject:p2"]
    assert train[1]["label"] == str(tmp_path / "scans" / "b_lesion.nii.gz")
    assert [(item["name"], item["abnormal"]) for item in test] == [("c", 0), ("patient_d", 1)]


def test_the_windows_of_the_page_are_those_of_the_code() -> None:
    for name, (center, width) in CT_WINDOWS.items():
        assert re.search(rf"`{name}`\s\({center:g} ± {width / 2:g}( HU)?\)".replace("-", "−"), PAGE), name
