# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What each way from the patch grid to pixels buys, and what it costs; see docs/evaluation.md.

    OMP_NUM_THREADS=1 python benchmarks/refinement.py --data ../shared/data --out runs/refinement

The demo's cohort (its test scans, seed 0) and patient 19 of the MS scans (patient 07 is fitted; axial slices 40 to 139,
as in the data's README), all figures inside the brain. A map along three axes needs a mixture fitted on three axes.
CPU time is that of the maps, as a ratio to bilinear along one axis in the same run. Every finished row is a line of
``results.jsonl``: the same command, with the same options, continues where it was stopped. Prints a table
and a JSON line.

``--choose`` prints what the radius and the ridge of the guided upsampling were chosen by: a cohort of another seed.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from monai_dpmm_ad.bundle import is_fitted, load_workflow
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.metrics import AnomalyMetrics
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network import upsampling as refinement
from monai_dpmm_ad.network.inferer import VolumeInferer
from monai_dpmm_ad.transforms import preprocess_scan
from monai_dpmm_ad.utils.files import write_json
from monai_dpmm_ad.utils.progress import quiet_warnings

ONE, THREE = ("axial",), ("axial", "coronal", "sagittal")
VARIANTS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "bilinear (the paper)": ("bilinear", 1, ONE),
    "nearest": ("nearest", 1, ONE),
    "guided": ("guided", 1, ONE),
    "bilinear, 2×2 shifts": ("bilinear", 2, ONE),
    "guided, 2×2 shifts": ("guided", 2, ONE),
    "bilinear, three axes": ("bilinear", 1, THREE),
    "guided, three axes": ("guided", 1, THREE),
}
FIGURES = ("best_dice_foreground", "aupro_foreground", "pixel_auroc_foreground", "pixel_aupr_foreground")
CHOICES = [(radius, ridge) for radius in (1, 2) for ridge in (1e-5, 1e-4, 1e-3)]
CHOICE_SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/refinement"))
    parser.add_argument("--data-sets", nargs="+", default=["demo", "ms"], choices=["demo", "ms"])
    parser.add_argument("--image-size", type=int, default=224, help="of both data sets")
    parser.add_argument("--embedder", default="compact")
    parser.add_argument("--choose", action="store_true", help="compare settings of the guided upsampling instead")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    quiet_warnings()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = list(choose(options) if options.choose else compare(options))
    for row in rows:
        print(f"{row['data']:5} {row['name']:24}" + "".join(f"{row[key]:8.3f}" for key in FIGURES), end="")
        print(f"{row['cost']:8.2f}")
    print(json.dumps(rows))


def compare(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row per data set and variant."""
    path = options.out / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    known = {(row["data"], row["name"]): row for row in done}
    for data in options.data_sets:
        for name, (upsampling, num_shifts, axes) in VARIANTS.items():
            if (data, name) not in known:
                network, items = prepare(options, data, axes)
                network.upsampling, network.num_shifts = upsampling, num_shifts
                known[data, name] = {"data": data, "name": name, **measure(network, items, axes, data == "ms")}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[data, name]) + "\n")
            yield _with_cost(known[data, name], known[data, next(iter(VARIANTS))])


def choose(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row per setting of the guided upsampling."""
    network, items = prepare(options, "demo", ONE, CHOICE_SEED)
    network.upsampling = "bilinear"
    bilinear = {"data": "other", "name": "bilinear", **measure(network, items, ONE, False)}
    yield _with_cost(bilinear, bilinear)
    network.upsampling = "guided"
    original = refinement.upsample_guided
    for radius, ridge in CHOICES:
        refinement.upsample_guided = functools.partial(original, radius=radius, ridge=ridge)
        name = f"radius {radius}, ridge {ridge:g}"
        yield _with_cost({"data": "other", "name": name, **measure(network, items, ONE, False)}, bilinear)


def _with_cost(row: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    return {**row, "cost": row["cpu_seconds"] / reference["cpu_seconds"]}


def prepare(
    options: argparse.Namespace, data: str, axes: tuple[str, ...], seed: int = 0
) -> tuple[AnomalyNet, list[dict[str, Any]]]:
    """Fit what is not fitted yet, and list the test scans."""
    folder = options.out / (f"{data}{seed}" if data == "demo" else data)
    datalist = folder / "datalist.json"
    if not datalist.is_file():
        if data == "demo":
            write_cohort(folder, seed=seed)
        else:
            write_json(datalist, _list_patients(options.data.resolve() / "ms_mri_3d"))
    bundle = folder / f"bundle_{len(axes)}"
    if not is_fitted(bundle):
        settings = {"embedder_name": options.embedder, "image_size": options.image_size, "seed": seed}
        fit([datalist], bundle, axes=list(axes), **settings)
    with load_workflow(bundle, ["inference"], "inference", device="cpu") as workflow:
        return workflow.network, resolve_datalist(datalist, section="test")


def _list_patients(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {
        section: [{"image": str(folder / patient / "FLAIR.nii.gz"), "label": str(folder / patient / "lesions.nii.gz")}]
        for section, patient in (("training", "patient07"), ("test", "patient19"))
    }


@torch.no_grad()
def measure(network: AnomalyNet, items: list[dict[str, Any]], axes: tuple[str, ...], cut: bool) -> dict[str, float]:
    """Figures inside the brain on the scans' own grids, and the CPU seconds of the maps."""
    inferer, chain = VolumeInferer(axes), preprocess_scan()
    metrics, seconds = AnomalyMetrics(froc=False), 0.0
    for item in items:
        image = chain(dict(item))["image"]
        start = time.process_time()
        drawn = inferer(image[None], network)[0]
        seconds += time.process_time() - start
        scores, brain = (_to_native(chain, x, image) for x in (drawn, image))
        label = np.asarray(nib.load(item["label"]).dataobj) > 0
        kept = (slice(None), slice(None), slice(40, 140)) if cut else ...
        foreground = brain[kept] > 0
        metrics.update(item["name"], scores[kept] * foreground, label[kept] & foreground, foreground)
    figures = metrics.compute(bootstrap=0)
    return {**{key: round(figures[key], 4) for key in FIGURES}, "cpu_seconds": round(seconds, 2)}


def _to_native(chain: Any, values: torch.Tensor, image: MetaTensor) -> np.ndarray:
    history = copy.deepcopy(image.applied_operations)  # the inverse consumes it
    placed = MetaTensor(values.as_subclass(torch.Tensor), meta=image.meta, applied_operations=history)
    return np.asarray(chain.inverse({"image": placed})["image"])[0]


if __name__ == "__main__":
    main()
