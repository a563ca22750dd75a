# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What comparing left with right adds to a finished map, by the weight of that channel (``fit --asymmetry on``).

    python benchmarks/asymmetry.py --data ../shared/data/ixi_t1_2mm --out runs/normative [--limit 13]

A bundle is fitted as in `benchmarks/normative.py`, whose ``--out`` may be given, with ``--asymmetry on``; it maps heads
of part *choose* with small and large implants and with the masks of real lesions. Voxel AUROC and average precision
inside the brain of all heads together; how many heads have a better average precision than with weight 0, and the mean
difference with its standard error. What is measured of a scan is kept in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from normative import Study
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_dpmm_ad.normative.combination import combine, surprise
from monai_dpmm_ad.utils.files import replace_file

KINDS = ("small", "large", "masks")
WEIGHTS = (0.0, 0.2, 0.4, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ixi_t1_2mm"))
    parser.add_argument("--out", type=Path, default=Path("runs/normative"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=13, help="look at so many heads")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    study = Study(arguments.data.resolve(), arguments.out.resolve(), arguments.seed, settings={"asymmetry": "on"})
    figures: dict[str, Any] = {}
    print("| implants | weight | AUROC / AP | better in | mean difference of AP |")
    for kind in arguments.kinds:
        cells = [measure(study, name, kind) for name in study.deal.calibrated[: arguments.limit]]
        truth = [cell["truth"] for cell in cells]
        alone = np.array([find_precision(cell, 0.0) for cell in cells])
        for weight in WEIGHTS:
            scores = [cell["without"] + weight * cell["asymmetry"] for cell in cells]
            pooled = np.concatenate(truth), np.concatenate(scores)
            more = np.array([find_precision(cell, weight) for cell in cells]) - alone
            row = [float(judge(*pooled)) for judge in (roc_auc_score, average_precision_score)]
            row += [int((more > 0).sum()), float(more.mean()), float(more.std() / len(more) ** 0.5)]
            figures[f"{kind}, {weight:g}"] = row
            print(
                f"| {kind} | {weight:g} | {row[0]:.3f} / {row[1]:.3f} | {row[2]} of {len(cells)} | "
                f"{row[3]:+.3f} ± {row[4]:.3f} |",
                flush=True,
            )
    print(json.dumps(figures))


def find_precision(cell: dict[str, NDArray[Any]], weight: float) -> float:
    """Average precision of one head."""
    return float(average_precision_score(cell["truth"], cell["without"] + weight * cell["asymmetry"]))


def measure(study: Study, name: str, kind: str) -> dict[str, NDArray[Any]]:
    """The map without that channel and the channel's surprise inside the brain, and the truth."""
    path = study.out / "asymmetry" / f"{kind}-{name}.npz"
    if not path.exists():
        cell = predict(study, name, kind)
        path.parent.mkdir(exist_ok=True, parents=True)
        replace_file(path, lambda temporary: save(temporary, cell))
    with np.load(path) as kept:
        return {key: kept[key] for key in kept.files}


def predict(study: Study, name: str, kind: str) -> dict[str, NDArray[Any]]:
    seen: list[tuple[Any, ...]] = []
    path, normative = study.write(name, kind), study.model.network.normative
    assert normative is not None
    hook = normative.register_forward_hook(lambda _, scan, finished: seen.append(scan))
    result = study.model.predict(path)
    hook.remove()
    mixture, image, affine, frame = seen[0]
    *channels, asymmetry = normative.standardize(mixture, image, affine, frame)
    inside = image > 0
    to_native = np.linalg.inv(result.affine) @ affine
    index = np.rint(np.argwhere(inside) @ to_native[:3, :3].T + to_native[:3, 3]).astype(int)
    truth = np.asarray(nib.load(path.parent / "masks" / path.name).dataobj) > 0
    return {
        "without": combine(channels, normative.channel_weights[:-1]).numpy()[inside],
        "asymmetry": surprise(asymmetry).numpy()[inside],
        "truth": truth[tuple(index.T)],
    }


def save(path: Path, cell: dict[str, NDArray[Any]]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **cell)


if __name__ == "__main__":
    main()
