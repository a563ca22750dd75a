# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from monai.transforms import Compose, Flip, Invertd, RandFlip, ScaleIntensityRange

from monai_dpmm_ad import CheckTruthd, DropVoxelsd, VolumeInferer, load_workflow
from monai_dpmm_ad.engines.steps import describe_steps

SCALE = {"preprocessing#transforms#3#method": "percentile"}


def draw(bundle: Path, cohort: Path, out: Path, **overrides: Any) -> tuple[list[Any], int]:
    """Scores of a run into a folder, and how many scans it had to do."""
    options = {"dataset_dir": str(cohort), "output_dir": str(out), **overrides}
    with load_workflow(bundle, ["inference"], "inference", **options) as workflow:
        workflow.run()
        done = len(workflow.dataset)
    with (out / "scores.csv").open() as file:
        return [row["score"] for row in csv.DictReader(file)], done


def test_a_step_that_a_config_changes_is_not_taken_for_finished(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    plain, _ = draw(bundle, cohort, tmp_path / "maps")
    scaled, done = draw(bundle, cohort, tmp_path / "maps", **SCALE)
    assert done == 4
    assert scaled != plain
    assert scaled == draw(bundle, cohort, tmp_path / "fresh", **SCALE)[0]
    sparse = {"inferer#slice_spacing": 0.5}
    assert draw(bundle, cohort, tmp_path / "maps", **SCALE, **sparse)[1] == 4


def test_what_changes_no_output_leaves_scans_finished(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    plain, _ = draw(bundle, cohort, tmp_path / "maps")
    assert draw(bundle, cohort, tmp_path / "maps", batch_size=3) == (plain, 0)
    (tmp_path / "maps").rename(tmp_path / "elsewhere")
    assert draw(bundle, cohort, tmp_path / "elsewhere", keep_images=True) == (plain, 0)


def test_steps_are_told_by_class_and_arguments() -> None:
    chain = Compose([Flip(0), ScaleIntensityRange(0, 1, 0, 2)])
    told = describe_steps([chain, VolumeInferer(batch_size=2)])
    assert told == describe_steps([Compose([Flip(0), ScaleIntensityRange(0, 1, 0, 2)]), VolumeInferer(batch_size=9)])
    assert told != describe_steps([Compose([Flip(1), ScaleIntensityRange(0, 1, 0, 2)]), VolumeInferer()])
    assert told != describe_steps([chain, VolumeInferer(slice_spacing=0.1)])
    assert "0x" not in json.dumps(describe_steps([RandFlip(), Invertd("pred", chain, "image"), lambda x: x]))
    assert describe_steps([CheckTruthd(), DropVoxelsd("image")]) == []
