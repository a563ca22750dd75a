# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several sequences and a table of the people: each sequence's map follows them, groups are of the sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import FAST

from monai_dpmm_ad import AnomalyModel, fit, infer
from monai_dpmm_ad.bundle import read_settings
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data.sequences import make_scan
from monai_dpmm_ad.network import SequenceNet

NAMES = ("T1", "FLAIR")


@pytest.fixture(scope="module")
def study(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``fit.json``, ``test.json`` and ``people.csv`` of the cohort's phantoms in two sequences."""
    root = tmp_path_factory.mktemp("study")
    entries: list[dict[str, Any]] = []
    for source in sorted(cohort.parent.glob("images*/*.nii.gz")):
        image = nib.load(source)
        values = image.get_fdata(dtype=np.float32)
        name = source.name.removesuffix(".nii.gz")
        second = root / f"{name}_FLAIR.nii.gz"
        nib.save(nib.Nifti1Image(np.where(values > 0, values.max() - 0.9 * values, 0), image.affine), second)
        entries.append({"image": [str(source), str(second)], "name": name})
    train, held_out = ([one for one in entries if word in one["name"]] for word in ("train", "valid"))
    tested = [one for one in entries if "test" in one["name"]]
    held_out += [{**one, "name": f"{one['name']}_again"} for one in tested if one["name"] != "test_abnormal_000"]
    held_out.append(held_out.pop(2))
    held_out[-1] = {**held_out[-1], "image": [held_out[-1]["image"][0], None]}
    for number, one in enumerate([*train, *held_out, *tested]):
        one["site"], one["age"] = ("north", "south")[number % 2], 30 + 4 * number
    lines = [f"{one['name']},{one.pop('age')},{one.pop('site')}" for one in [*train, *held_out, *tested]]
    (root / "people.csv").write_text("\n".join(["name,age,site", *lines]) + "\n", encoding="utf-8")
    listed = {"channels": NAMES, "training": train, "validation": held_out}
    (root / "fit.json").write_text(json.dumps(listed), encoding="utf-8")
    (root / "test.json").write_text(json.dumps({"channels": NAMES, "test": tested}), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def joined(study: Path, tiny_vit: Path) -> Path:
    options = {"covariates": study / "people.csv", "group_by": "site", "embedder_name": str(tiny_vit), **FAST}
    outcome = fit([study / "fit.json"], study / "bundle", **options)
    assert not outcome.failures
    return study / "bundle"


def test_each_sequence_knows_people_and_groups_are_of_the_sum(joined: Path) -> None:
    network = AnomalyModel.load(joined).network
    assert isinstance(network, SequenceNet)
    assert network.covariates == ("age", "site")
    assert read_settings(joined)["sites"] == read_settings(joined / "fit" / "FLAIR")["sites"] == ["north", "south"]
    assert [network[number].covariates for number in (0, 1)] == [("age", "site")] * 2
    counts = {
        name: [int(network.judge_of(name).calibration.of(present).num_scans) for present in ("11", "10", "01")]
        for name in (None, "site north", "site south")
    }
    assert counts == {None: [4, 5, 4], "site north": [2, 2, 2], "site south": [2, 3, 2]}


def test_the_map_is_the_sum_of_those_of_persons_like_this_one(joined: Path, study: Path, tmp_path: Path) -> None:
    table = study / "people.csv"
    rows = {row.name: row for row in infer(joined, [study / "test.json"], tmp_path / "out", covariates=table).scans}
    row = rows["test_abnormal_000"]
    assert row.covariates == "age 62 (fitted 30 to 38), site north"
    assert (row.group, row.smallest_p_value) == ("site north", 1 / 3)
    entry = next(one for one in json.loads((study / "test.json").read_text())["test"] if one["name"] == row.name)
    maps = []
    for name, image in zip(NAMES, entry["image"], strict=True):
        model = AnomalyModel.load(joined / "fit" / name)
        item = {"image": image, "name": row.name, "covariates": json.dumps({"age": 62.0, "site": "north"})}
        maps.append(model.predict_item(item).map)
    drawn = np.asarray(nib.load(tmp_path / "out" / f"{row.name}_anomaly.nii.gz").dataobj)
    np.testing.assert_allclose(drawn, sum(maps), atol=1e-4)
    alone = infer(joined, [study / "test.json"], tmp_path / "alone", report=False).scans
    assert {one.group for one in alone} == {None}
    assert next(one for one in alone if one.name == row.name).score != row.score


def test_a_choice_that_nobody_of_the_group_had_is_judged_by_all(study: Path, joined: Path) -> None:
    model = AnomalyModel.load(joined)
    network = model.network
    network.judge_of("site north").calibration.of("01").reset()
    entry = json.loads((study / "test.json").read_text())["test"][0]
    item = make_scan({"name": "a"}, [entry["image"][1]], ["FLAIR"])
    for site, group, smallest in (("north", None, 1 / 5), ("south", "site south", 1 / 3)):
        told = json.dumps({"age": 50.0, "site": site})
        row = model.predict_item({**item, "covariates": told}).row
        assert (row.group, row.smallest_p_value) == (group, smallest)


def test_refusals_are_one_line(joined: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ages.csv").write_text("name,age\ntest_abnormal_000,50\n", encoding="utf-8")
    command = ["infer", "--bundle", joined, "--images", study / "test.json", "--out", tmp_path / "out"]
    assert main([*map(str, command), "--covariates", str(tmp_path / "ages.csv")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "lacks the column site; it has name, age" in line
