# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How well do groups of the 2D brain slices agree with the three tumour types?

    python benchmarks/clustering.py --data ../shared/data/brain_mri_2d --out runs/clustering [--bundle BUNDLE]

Every abnormal slice of ``valid`` and ``test`` is an item. For each kind of weights τ is chosen on ``valid`` by NMI with
three groups and reported on ``test``, beside the plain average embedding (``uniform``); then once more with the number
of groups chosen by silhouette. A bundle is fitted on ``train`` where none is given. Prints tables and a JSON line.
The types come from different sources of the data set: an agreement measures the source as well as the tumour.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_dpmm_ad.bundle import is_fitted, load_workflow
from monai_dpmm_ad.clustering import LINKAGES, group_descriptors, read_types
from monai_dpmm_ad.clustering.groups import WEIGHTS, InstanceGroups, describe_instances, score_instances
from monai_dpmm_ad.clustering.instances import Instance, InstanceCollector
from monai_dpmm_ad.clustering.normals import gather_normal
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.data.dataset import ScanDataset

TAUS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NUM_TYPES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/brain_mri_2d"))
    parser.add_argument("--out", type=Path, default=Path("runs/clustering"))
    parser.add_argument("--bundle", type=Path, help="fitted on the data's training slices; made in --out where absent")
    parser.add_argument("--max-patches", type=int, default=200, help="of a slice; the unsupervised cost is its square")
    arguments = parser.parse_args()
    data, bundle = arguments.data.resolve(), arguments.bundle or arguments.out / "bundle"
    if not is_fitted(bundle):
        fit([data], bundle, num_components=512, pooling="mean")
    items, normal = collect(data, bundle, arguments.max_patches)
    types = {split: read_types(data / "types.csv", [item.image for item in found]) for split, found in items.items()}
    scores: dict[str, dict[str, list[Tensor]]] = {}
    seconds: dict[str, float] = {}
    for weights in WEIGHTS:
        start = time.process_time()
        scores[weights] = {split: score_instances(found, weights, normal=normal) for split, found in items.items()}
        seconds[weights] = time.process_time() - start
    report = {weights: evaluate(items, types, scores[weights], weights) for weights in WEIGHTS}
    for weights in WEIGHTS:
        report[weights]["cpu_seconds"] = round(seconds[weights], 2)
    show(report)
    best = max(WEIGHTS, key=lambda weights: report[weights]["valid_nmi"])
    report["linkage"] = compare_linkages(items["test"], types["test"], scores[best]["test"], report[best]["tau"])
    print(f"\nlinkage, {best} weights, τ {report[best]['tau']}, test")
    for linkage, figures in report["linkage"].items():
        print(f"{linkage:10s}" + "".join(f"{figures[name]:8.3f}" for name in ("nmi", "ari", "f1")))
    print(json.dumps(report))


def collect(data: Path, bundle: Path, max_patches: int) -> tuple[dict[str, list[Instance]], Tensor]:
    """Items of ``valid`` and ``test``, and normal patches that the bundle was fitted on."""
    items = {}
    for split in ("valid", "test"):
        folder = str(data / split / "Ungood")
        with load_workflow(bundle, ["inference"], "inference", dataset_dir=[folder]) as workflow:
            network, scans = workflow.network, ScanDataset(workflow.datalist, workflow.preprocessing)
        items[split] = InstanceCollector(network, max_patches=max_patches).collect(scans)
    return items, gather_normal(network, bundle, None, seed=0)


def judge(
    items: Sequence[Instance],
    types: Sequence[str | None],
    scores: Sequence[Tensor],
    tau: float,
    number: int | None = NUM_TYPES,
    linkage: str = LINKAGES[0],
) -> dict[str, Any]:
    """Agreement of one grouping with the types, and its number of groups."""
    grouping = group_descriptors(describe_instances(items, scores, tau), number, linkage)
    return {**InstanceGroups.judge(items, grouping, types).metrics, "groups": grouping.num_clusters}


def evaluate(
    items: Mapping[str, Sequence[Instance]],
    types: Mapping[str, Sequence[str | None]],
    scores: Mapping[str, Sequence[Tensor]],
    weights: str,
) -> dict[str, Any]:
    """Choose τ on ``valid``, report ``test``."""
    taus = (1.0,) if weights == "uniform" else TAUS
    valid = {tau: judge(items["valid"], types["valid"], scores["valid"], tau)["nmi"] for tau in taus}
    tau = max(taus, key=lambda value: valid[value])
    every = {str(value): judge(items["test"], types["test"], scores["test"], value)["nmi"] for value in taus}
    return {
        "tau": tau,
        "valid_nmi": valid[tau],
        "valid_nmi_by_tau": {str(value): nmi for value, nmi in valid.items()},
        "test_nmi_by_tau": every,
        "test": judge(items["test"], types["test"], scores["test"], tau),
        "test_silhouette": judge(items["test"], types["test"], scores["test"], tau, None),
    }


def compare_linkages(
    items: Sequence[Instance], types: Sequence[str | None], scores: Sequence[Tensor], tau: float
) -> dict[str, dict[str, Any]]:
    """Agreement of three groups by each linkage."""
    return {linkage: judge(items, types, scores, tau, NUM_TYPES, linkage) for linkage in LINKAGES}


def show(report: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was found, a line for each kind of weights."""
    print(f"{'weights':17s}{'τ':>5s}{'valid NMI':>11s}{'NMI':>8s}{'ARI':>8s}{'F1':>8s}{'groups':>8s}{'NMI':>8s}  CPU s")
    for weights, found in report.items():
        test, chosen = found["test"], found["test_silhouette"]
        tau = "–" if weights == "uniform" else f"{found['tau']:g}"
        print(
            f"{weights:17s}{tau:>5s}{found['valid_nmi']:11.3f}{test['nmi']:8.3f}{test['ari']:8.3f}{test['f1']:8.3f}"
            f"{chosen['groups']:8d}{chosen['nmi']:8.3f}{found['cpu_seconds']:7.1f}"
        )
    for weights, found in report.items():
        parts = [
            f"{tau}: {found['valid_nmi_by_tau'][tau]:.3f}/{nmi:.3f}" for tau, nmi in found["test_nmi_by_tau"].items()
        ]
        print(f"{weights}, NMI on valid/test by τ: " + ", ".join(parts))


if __name__ == "__main__":
    main()
