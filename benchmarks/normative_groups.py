# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Who is flagged: what the promise of false regions is worth inside groups of healthy people.

    python benchmarks/normative_groups.py --data ../shared/data/ixi_t1_2mm --out runs/groups

Bundles are fitted each without another third of the cohort, so that every head is tested once, as it is: *plain* with
the command's defaults, *covariates* with ``--covariates`` (age and sex), *by age* with ``--group-by age`` as well. By
thirds of age and by sex: flagged regions of a head in the mean with the 95 % interval of a bootstrap over heads (at
most 1 is promised), heads whose smallest p-value is at most 0.1 with the 95 % interval of Clopper and Pearson (at most
0.1 is promised), foreground voxels flagged at the calibrated rate of 1 %, and the rank correlation with age. A group of
n heads is *within* where no more of them are flagged than a binomial of 0.1 and n has with 97.5 %. What is measured of
a head is kept in ``--out``: an interrupted run goes on. ``--folds`` and ``--limit`` do a part.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from normative import Study
from normative_cohort import NUM_FOLDS
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, spearmanr

from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.network.groups import Judge
from monai_dpmm_ad.normative import REGION_THRESHOLD, measure_regions
from monai_dpmm_ad.utils.files import write_json

LEVEL, RATE, FALSE_REGIONS = 0.1, 0.01, 1.0
WAYS = ("plain", "covariates", "by age")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ixi_t1_2mm"))
    parser.add_argument("--out", type=Path, default=Path("runs/groups"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", nargs="+", type=int, choices=range(NUM_FOLDS), default=range(NUM_FOLDS))
    parser.add_argument("--limit", type=int, help="look at so many heads of each fold only")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    data, out = arguments.data.resolve(), arguments.out.resolve()
    people = read_people(data / "participants.csv")
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for fold in arguments.folds:
        plain, joined = (GroupStudy(data, out, arguments.seed, fold, joined) for joined in (False, True))
        for name in plain.deal.test[: arguments.limit]:
            for way, figures in judge(plain, joined, name).items():
                rows[way].append(people.get(name, {}) | figures)
    print("| way | group | heads | flagged regions of a head | heads with p ≤ 0.1 | within | voxels at rate 0.01 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(json.dumps({way: describe_way(way, members) for way, members in rows.items()}))


class GroupStudy(Study):
    """A third of the cohort and the bundle that has not seen it, with or without covariates; both share embeddings."""

    def __init__(self, data: Path, out: Path, seed: int, fold: int, joined: bool) -> None:
        super().__init__(data, out, seed, fold=fold)
        self.joined = joined

    @cached_property
    def model(self) -> AnomalyModel:
        bundle = self.out / ("covariates" if self.joined else "plain")
        if not is_fitted(bundle):
            names = (self.deal.fitted, self.deal.calibrated)
            fitted, held_out = ([self.write(name, "healthy") for name in part] for part in names)
            more = {"covariates": self.table(), "group_by": "age"} if self.joined else {}
            fit(fitted, bundle, held_out, seed=self.seed, shared_embeddings=str(self.embeddings), **more)
        return AnomalyModel.load(bundle)

    def table(self) -> str:
        """The cohort's table, in which the one head that it lacks has a row that says nothing."""
        path = self.out / "people.csv"
        people = read_people(self.data / "participants.csv")
        names = sorted({*self.deal.fitted, *self.deal.calibrated, *self.deal.test})
        lines = [
            f"{name},{people.get(name, {}).get('age', '')},{people.get(name, {}).get('sex', '')}" for name in names
        ]
        path.write_text("\n".join(["name,age,sex", *lines]) + "\n", encoding="utf-8")
        return str(path)


def judge(plain: GroupStudy, joined: GroupStudy, name: str) -> dict[str, dict[str, Any]]:
    """What is said of a healthy head in each way.

    Both bundles have the same mixture, reference and frame of the head, so the head is embedded and placed once; maps
    are compared where they are finished, on the scan's own voxels in another order.
    """
    path = plain.out / "groups" / f"{name}.json"
    if not path.exists():
        seen: list[tuple[Any, Any]] = []
        model = joined.model
        assert model.network.normative is not None
        hook = model.network.normative.register_forward_hook(lambda _, args, out: seen.append((args, out)))
        result = model.predict(joined.write(name, "healthy"), covariates=joined.table())
        hook.remove()
        (scan, finished), network = seen[0], plain.model.network
        assert network.normative is not None
        inside = scan[1] > 0
        group = model.network.judge_of(result.row.group)
        figures = {
            "plain": flag(network.normative(*scan), inside, network.judge_of(None)),
            "covariates": flag(finished, inside, model.network.judge_of(None)),
            "by age": flag(finished, inside, group),
        }
        assert figures["by age"]["regions"] == len(result.regions), "as the product says it"
        path.parent.mkdir(exist_ok=True)
        write_json(path, figures)
    return dict(json.loads(path.read_text()))


def flag(finished: NDArray[np.float32], inside: NDArray[np.bool_], judge: Judge) -> dict[str, Any]:
    """Flagged regions, the smallest p-value and the share of voxels above the threshold."""
    peaks = measure_regions(finished, REGION_THRESHOLD)[1]
    return {
        "regions": int((peaks > judge.regions.least_statistic(FALSE_REGIONS)).sum()),
        "p": float(judge.regions.p_values(peaks).min()) if len(peaks) else 1.0,
        "voxels": float((finished[inside] > judge.calibration.threshold(RATE)).mean()),
    }


def read_people(path: Path) -> dict[str, dict[str, Any]]:
    """Age and sex by name."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: {"age": float(row["age"]), "sex": row["sex"]} for row in csv.DictReader(file)}


def describe_way(way: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print and return the figures of all groups."""
    groups = {"all": rows}
    rows = [row for row in rows if "age" in row]  # one head is not in the table
    edges = np.quantile([row["age"] for row in rows], [1 / 3, 2 / 3])
    for number, name in enumerate(("youngest", "middle", "oldest")):
        third = [row for row in rows if np.searchsorted(edges, row["age"]) == number]
        groups[f"{name} third, {min(r['age'] for r in third):.0f} to {max(r['age'] for r in third):.0f}"] = third
    groups |= {sex: [row for row in rows if row["sex"] == sex] for sex in sorted({row["sex"] for row in rows})}
    figures = {name: describe(way, name, members) for name, members in groups.items()}
    ages = [row["age"] for row in rows]
    with_age = {key: float(spearmanr(ages, [row[key] for row in rows])[0]) for key in ("regions", "voxels")}
    cells = f"{with_age['regions']:.2f} | | | {with_age['voxels']:.2f}"
    print(f"| {way} | rank correlation with age | {len(ages)} | {cells} |", flush=True)
    return {**figures, "with age": with_age}


def describe(way: str, name: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Print and return a group's figures."""
    few, count = sum(row["p"] <= LEVEL for row in members), len(members)
    low, high = binomtest(few, count).proportion_ci(0.95)
    within = bool(few <= binom.ppf(0.975, count, LEVEL))
    values = np.array([row["regions"] for row in members], float)
    drawn = np.random.default_rng(0).choice(values, (2000, count)).mean(1)
    below, above = np.quantile(drawn, [0.025, 0.975])
    voxels = float(np.mean([row["voxels"] for row in members]))
    share = f"{few / count:.2f} ({low:.2f} to {high:.2f})"
    cells = [f"{values.mean():.2f} ({below:.2f} to {above:.2f})", share, "yes" if within else "no", f"{voxels:.4f}"]
    print(f"| {way} | {name} | {count} | " + " | ".join(cells) + " |", flush=True)
    kept = {"regions": float(values.mean()), "p": few / count, "band": [low, high], "within": within, "voxels": voxels}
    return {"heads": count, **kept}


if __name__ == "__main__":
    main()
