# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Fit and evaluate on the real scans of ``../shared/data``, beside plain intensity.

    python benchmarks/real_scans.py --data ../shared/data --out runs/real [--image-size 448] [--components 256]

The MS scans are fitted four times: the mixture alone, with the bright intensity tail beside the embedding
(``--intensity-tail bright`` of the command line), since MS lesions are known to be bright in FLAIR, and both again
judged by place: as the command does unless told otherwise, and with ``--intensity-side bright``.

Patient 07's FLAIR is fitted without the patches that its lesion mask touches, patient 19's is evaluated inside the
brain, on axial slices 40 to 139 as in the data's README. ``brain_mri_2d`` is fitted on its 1 300 tumour-free training
slices and evaluated on its test split, image level only: its classes come from different sources, so its AUROC measures
the source as well as the tumour. Prints a table and a JSON line. A fitted bundle in ``--out`` is used again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands import evaluate, fit
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.metrics import AnomalyMetrics
from monai_dpmm_ad.network.intensity_tail import IntensityTail
from monai_dpmm_ad.transforms import preprocess_scan
from monai_dpmm_ad.utils.files import write_json

SLICES = slice(40, 140)
FIGURES = ("pixel_auroc_foreground", "pixel_aupr_foreground", "aupro_foreground", "best_dice_foreground")

WAYS = {
    "mixture": {"normative": "off"},
    "mixture and bright tail": {"normative": "off", "intensity_tail": "bright"},
    "judged by place": {},
    "judged by place, bright": {"intensity_side": "bright"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--image-size", type=int, default=448, help="for the MS scans; the 2D slices use 224")
    parser.add_argument("--components", type=int, default=256, help="for the MS scans; the 2D slices use 512")
    arguments = parser.parse_args()
    rows = {
        **run_ms(arguments),
        **run_slices(arguments.data.resolve() / "brain_mri_2d", arguments.out / "brain_mri_2d"),
    }
    for name, figures in rows.items():
        print(f"{name:45s}" + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    print(json.dumps(rows))


def run_ms(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Mixture and plain intensity on patient 19."""
    data, out = arguments.data.resolve() / "ms_mri_3d", arguments.out / "ms_mri_3d"
    out.mkdir(parents=True, exist_ok=True)
    entries = {
        section: [{"image": str(data / patient / "FLAIR.nii.gz"), "label": str(data / patient / "lesions.nii.gz")}]
        for section, patient in (("training", "patient07"), ("test", "patient19"))
    }
    write_json(out / "flair.json", entries)
    options = {"image_size": arguments.image_size, "num_components": arguments.components}
    brain, intensity = _preprocessed(entries["test"][0])
    label = np.asarray(nib.load(entries["test"][0]["label"]).dataobj) > 0
    maps = {}
    for number, (title, ways) in enumerate(WAYS.items()):
        bundle, results = out / f"bundle-{number}", out / f"results-{number}"
        _fit(out / "flair.json", bundle, **ways, **options)
        evaluate(bundle, [out / "flair.json"], results)
        anomaly = np.asarray(nib.load(results / "FLAIR_anomaly.nii.gz").dataobj)
        maps[f"MS patient 19, {title} at {arguments.image_size}"] = anomaly
    maps["MS patient 19, plain intensity"] = intensity
    smooth = IntensityTail("bright").smooth(torch.from_numpy(np.moveaxis(intensity, 2, 0))[:, None])
    maps["MS patient 19, smoothed intensity"] = np.moveaxis(smooth[:, 0].numpy(), 0, 2)
    return {name: _figures(scores, label, brain) for name, scores in maps.items()}


def run_slices(data: Path, out: Path) -> dict[str, dict[str, float]]:
    """Mixture and mean intensity on the 2D test slices."""
    _fit(data, out / "bundle", image_size=224, num_components=512)
    figures = evaluate(out / "bundle", [data], out / "results", report=False).metrics
    items = resolve_datalist(data, section="test")
    means = [float(np.mean(preprocess_scan().transforms[0](item)["image"])) for item in items]
    baseline = roc_auc_score([item["abnormal"] for item in items], means)
    return {
        "brain_mri_2d test, mixture": {key: figures[key] for key in ("image_auroc", "image_aupr")},
        "brain_mri_2d test, mean intensity": {"image_auroc": float(baseline)},
    }


def _fit(data: Path, bundle: Path, **options: Any) -> None:
    if not is_fitted(bundle):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit([data], bundle, patch_fraction=1.0, **options)


def _preprocessed(item: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Brain mask and intensity as the network sees them, on the scan's own grid."""
    chain = preprocess_scan()
    image = chain(dict(item, name="scan"))
    native = np.asarray(chain.inverse({"image": image["image"]})["image"])[0]
    return native > 0, native


def _figures(scores: np.ndarray, label: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    metrics = AnomalyMetrics(froc=False)
    crop = (slice(None), slice(None), SLICES)
    inside = scores[crop] * brain[crop]
    metrics.update("scan", score_map=inside, mask=label[crop] & brain[crop], foreground=brain[crop])
    figures = metrics.compute(bootstrap=0)
    return {key: figures[key] for key in FIGURES}


if __name__ == "__main__":
    main()
