# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Another scanner: what ``fit --update --site`` makes of one and of five healthy scans of it.

    python benchmarks/new_site.py --data ../shared/data/ixi_t1_2mm --out runs/groups

The bundle is that of `benchmarks/normative_groups.py` (50 heads, fold 1). The scanner is simulated: another contrast
(the 0.7th power of the intensity), slices blurred by 2 mm, a bias field, noise. Its healthy scans are held-out heads of
the fit, the test heads are those that the bundle has not seen: so many healthy ones, and the same ones with one large
implant each. A row has flagged regions of a healthy head in the mean, voxel AUROC and average precision inside the
brain, and the image AUROC. *same* is the scanner of the fit: there one scan and five must not make it worse.
"""

from __future__ import annotations

import argparse
import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from normative_cohort import save_array
from normative_groups import GroupStudy
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.utils.files import write_json

FOLD, POWER, BLUR, NOISE = 1, 0.7, 2.0, 0.03
KINDS = ("healthy", "large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ixi_t1_2mm"))
    parser.add_argument("--out", type=Path, default=Path("runs/groups"))
    parser.add_argument("--heads", type=int, default=10, help="test heads, each healthy and with an implant")
    parser.add_argument("--scans", type=int, nargs="+", default=[0, 1, 5], help="healthy scans of the site")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    study = GroupStudy(arguments.data.resolve(), arguments.out.resolve(), 0, FOLD, joined=False)
    print("| scanner | its scans | flagged regions of a healthy head | AUROC / AP | image AUROC |")
    print("| --- | --- | --- | --- | --- |")
    for scanner in ("same", "another"):
        for number in arguments.scans:
            report(study, scanner, number, study.deal.test[: arguments.heads])


def scan_on(study: GroupStudy, scanner: str, name: str, kind: str) -> Path:
    """A head as a scanner shows it."""
    source = study.write(name, kind)
    path = study.out / "sites" / scanner / kind / source.name
    if scanner == "same":
        return source
    if not path.exists():
        image = nib.load(source)
        values = move_scanner(np.asarray(image.dataobj, dtype=np.float32), zlib.crc32(name.encode()))
        save_array(values, image.affine, path)
    return path


def move_scanner(values: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Another contrast, thicker slices, a field and noise; voxels of 2 mm, slices along the last axis."""
    inside = values > 0
    median = np.median(values[inside])
    weight = ndimage.gaussian_filter1d(inside.astype(np.float32), BLUR / 2, axis=2)
    moved = ndimage.gaussian_filter1d(median * (values / median) ** POWER, BLUR / 2, axis=2) / np.maximum(weight, 1e-3)
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in values.shape], indexing="ij")
    field = np.exp(0.15 * axes[0] - 0.1 * axes[1] ** 2 + 0.1 * axes[2])
    noise = np.random.default_rng(seed).normal(0, NOISE * median, values.shape)
    return np.where(inside, np.maximum(moved * field + noise, 1), 0).astype(np.float32)


def load_bundle(study: GroupStudy, scanner: str, number: int) -> AnomalyModel:
    """The bundle after so many scans of a scanner."""
    if number == 0:
        return study.model
    bundle = study.out / "sites" / f"{scanner}-{number}"
    if not is_fitted(bundle):
        scans = [scan_on(study, scanner, name, "healthy") for name in study.deal.calibrated[:number]]
        fit(scans, bundle, update=study.model.root, site=scanner)
    return AnomalyModel.load(bundle)


def measure(study: GroupStudy, model: AnomalyModel, scan: Path, name: str, kind: str) -> dict[str, Any]:
    result = model.predict(scan)
    inside = np.asarray(nib.load(scan).dataobj) > 0
    study.write(name, kind)
    truth = np.asarray(nib.load(study.out / "scans" / kind / "masks" / f"{name}.nii.gz").dataobj)[inside] > 0
    row: dict[str, Any] = {"regions": len(result.regions), "score": result.score}
    if kind != "healthy":
        row["auroc"] = float(roc_auc_score(truth, result.map[inside]))
        row["ap"] = float(average_precision_score(truth, result.map[inside]))
    return row


def report(study: GroupStudy, scanner: str, number: int, names: list[str]) -> None:
    """Print a row; what is measured of a scan is kept."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    model = None
    for kind in KINDS:
        for name in names:
            path = study.out / "sites" / f"{scanner}-{number}-{kind}-{name}.json"
            if not path.exists():
                model = model or load_bundle(study, scanner, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, measure(study, model, scan_on(study, scanner, name, kind), name, kind))
            rows[kind].append(json.loads(path.read_text()))
    scores = [(kind != "healthy", row["score"]) for kind in KINDS for row in rows[kind]]
    regions = np.mean([row["regions"] for row in rows["healthy"]])
    auroc, ap = (np.mean([row[key] for row in rows["large"]]) for key in ("auroc", "ap"))
    image = roc_auc_score(*zip(*scores, strict=True))
    print(f"| {scanner} | {number} | {regions:.1f} | {auroc:.3f} / {ap:.3f} | {image:.2f} |", flush=True)


if __name__ == "__main__":
    main()
