# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Who is flagged: what the promise of false regions is worth inside groups of healthy people.

    python benchmarks/normative_groups.py --data ../shared/data/ixi_t1_2mm --out runs/normative

Three bundles are fitted, each without another third of the cohort, so that every head is tested once, as it is. By
thirds of age and by sex: flagged regions of a head in the mean, heads whose smallest p-value is at most 0.1 with the
95 % interval of Clopper and Pearson (0.1 is promised), and foreground voxels flagged at the calibrated rate of 1 %.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from normative import Study
from normative_cohort import NUM_FOLDS
from scipy.stats import binomtest

LEVEL, RATE = 0.1, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ixi_t1_2mm"))
    parser.add_argument("--out", type=Path, default=Path("runs/normative"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    people = read_people(arguments.data / "participants.csv")
    rows = []
    for fold in range(NUM_FOLDS):
        study = Study(arguments.data.resolve(), arguments.out.resolve(), arguments.seed, fold=fold)
        rows += [people.get(name, {}) | measure(study, name) for name in study.deal.test]
    groups = {"all": rows}
    rows = [row for row in rows if "age" in row]  # one head is not in the table
    edges = np.quantile([row["age"] for row in rows], [1 / 3, 2 / 3])
    for number, name in enumerate(("youngest", "middle", "oldest")):
        third = [row for row in rows if np.searchsorted(edges, row["age"]) == number]
        groups[f"{name} third, {min(r['age'] for r in third):.0f} to {max(r['age'] for r in third):.0f}"] = third
    groups |= {sex: [row for row in rows if row["sex"] == sex] for sex in sorted({row["sex"] for row in rows})}
    print("| group | heads | flagged regions of a head | heads with p ≤ 0.1 (95 % interval) | voxels at rate 0.01 |")
    figures = {name: describe(name, members) for name, members in groups.items()}
    print(json.dumps(figures))


def read_people(path: Path) -> dict[str, dict[str, Any]]:
    """Age and sex by name."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: {"age": float(row["age"]), "sex": row["sex"]} for row in csv.DictReader(file)}


def measure(study: Study, name: str) -> dict[str, Any]:
    """What the product says of a healthy head."""
    path = study.out / "groups" / f"{name}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    scan = study.write(name, "healthy")
    result = study.model.predict(scan)
    inside = np.asarray(nib.load(scan).dataobj) > 0
    threshold = float(study.model.network.calibration.threshold(RATE))
    figures = {
        "regions": len(result.regions),
        "p": 1.0 if result.region_p_value is None else result.region_p_value,
        "voxels": float((result.map[inside] > threshold).mean()),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures))
    return figures


def describe(name: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Print and return a group's figures."""
    few = sum(row["p"] <= LEVEL for row in members)
    test = binomtest(few, len(members))
    low, high = test.proportion_ci(0.95)
    regions, voxels = (float(np.mean([row[key] for row in members])) for key in ("regions", "voxels"))
    share = f"{few / len(members):.2f} ({low:.2f} to {high:.2f})"
    print(f"| {name} | {len(members)} | {regions:.2f} | {share} | {voxels:.4f} |", flush=True)
    return {"heads": len(members), "regions": regions, "p": few / len(members), "band": [low, high], "voxels": voxels}


if __name__ == "__main__":
    main()
