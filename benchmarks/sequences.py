# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several sequences beside each single one, on the two MS patients of ``../shared/data``.

    python benchmarks/sequences.py --data ../shared/data --out runs/sequences [--patient 07|19]

T1, T2 and FLAIR of patient 07 are fitted at default settings, without the patches that the lesion mask touches: one
bundle of the three, in whose folder ``fit`` lie the bundles of the single ones. Then a patient is mapped by each single
sequence and by all together; the map of all but one is the scaled sum of the single ones, as that of all is checked to
be. The
figures are of the voxels inside the brain, axial slices 40 to 139, as in the data's README; processor time and largest
memory are those of the command that draws the map. Patient 07, who was fitted, is for choosing; patient 19 is the test.
What is in ``--out`` already is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.metrics import AnomalyMetrics
from monai_dpmm_ad.transforms import preprocess_scan
from monai_dpmm_ad.utils.files import read_json, write_json

NAMES = ("T1", "T2", "FLAIR")
SLICES = slice(40, 140)
FIGURES = ("pixel_auroc_foreground", "pixel_aupr_foreground", "aupro_foreground", "best_dice_foreground")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/sequences"))
    parser.add_argument("--patient", choices=("07", "19"), default="19")
    arguments = parser.parse_args()
    data, out = (arguments.data / "ms_mri_3d").resolve(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    fitted = data / "patient07"
    entry = {"image": [str(fitted / f"{name}.nii.gz") for name in NAMES], "channels": NAMES}
    write_json(out / "fit.json", {"training": [{**entry, "label": str(fitted / "lesions.nii.gz")}]})
    call("fit", "--images", out / "fit.json", "--out", out / "bundle")
    patient, folder = data / f"patient{arguments.patient}", out / f"maps-{arguments.patient}"
    rows, maps = {}, {}
    for name in NAMES:
        maps[name], cost = draw(patient, folder / name, out / "bundle" / "fit" / name, (name,))
        rows[name] = measure(patient, maps[name]) | cost
    scales = AnomalyModel.load(out / "bundle").network.scales.tolist()
    maps = {name: scale * maps[name] for name, scale in zip(NAMES, scales, strict=True)}
    together, cost = draw(patient, folder / "all", out / "bundle", NAMES)
    if not np.allclose(together, sum(maps.values()), atol=1e-3):
        raise RuntimeError("the map of all is not the sum of the single ones")
    rows["all"] = measure(patient, together) | cost
    for name in NAMES:
        rows[f"without {name}"] = measure(patient, together - maps[name])
    for title, row in rows.items():
        print(f"{title:15s}" + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(json.dumps(rows))


def draw(patient: Path, out: Path, bundle: Path, names: tuple[str, ...]) -> tuple[NDArray[Any], dict[str, float]]:
    """Map a patient's scan of these sequences; the map, and what it cost."""
    out.mkdir(parents=True, exist_ok=True)
    done = out / "cost.json"
    if not done.is_file():
        images = [str(patient / f"{name}.nii.gz") for name in names]
        write_json(out / "scan.json", {"test": [{"image": images, "channels": names, "name": "scan"}]})
        words = ("infer", "--bundle", bundle, "--images", out / "scan.json", "--out", out / "maps", "--no-report")
        write_json(done, call(*words))
    return np.asarray(nib.load(out / "maps" / "scan_anomaly.nii.gz").dataobj), read_json(done)


def measure(patient: Path, anomaly: NDArray[Any]) -> dict[str, float]:
    """Figures of a map inside the brain."""
    lesions = np.asarray(nib.load(patient / "lesions.nii.gz").dataobj) > 0
    chain = preprocess_scan()
    image = chain({"image": str(patient / "FLAIR.nii.gz"), "name": "scan"})["image"]
    brain = np.asarray(chain.inverse({"image": image})["image"])[0] > 0
    crop = (slice(None), slice(None), SLICES)
    metrics = AnomalyMetrics(froc=False)
    scores = np.maximum(anomaly, 0)[crop] * brain[crop]
    metrics.update("scan", scores, mask=lesions[crop] & brain[crop], foreground=brain[crop])
    figures = metrics.compute(bootstrap=0)
    return {key: figures[key] for key in FIGURES}


def call(*words: object) -> dict[str, float]:
    """Run a command of the package; its processor seconds and largest memory."""
    process = subprocess.Popen([sys.executable, "-m", "monai_dpmm_ad", *map(str, words)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with {process.returncode}")
    return {"seconds": usage.ru_utime + usage.ru_stime, "GB": usage.ru_maxrss / 2**20}


if __name__ == "__main__":
    main()
