# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several sequences beside each single one, on the two MS patients of ``../shared/data``.

    python benchmarks/sequences.py --data ../shared/data --out runs/sequences [--patient 07|19]

T1, T2 and FLAIR of patient 07 are fitted at default settings, without the patches that the lesion mask touches: one
bundle of the three, in whose folder ``fit`` lie the bundles of the single ones. Then a patient is mapped by each single
sequence, by all together, and by all but one. The figures are of the voxels inside the brain, axial slices 40 to 139,
as in the data's README; time and largest memory are those of the command that draws the map. Patient 07, who was
fitted, is for choosing; patient 19 is the test. A fitted bundle in ``--out`` is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_dpmm_ad.metrics import AnomalyMetrics
from monai_dpmm_ad.transforms import preprocess_scan
from monai_dpmm_ad.utils.files import write_json

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
    patient = data / f"patient{arguments.patient}"
    rows = {}
    for title, bundle, names in ways(out / "bundle"):
        rows[title] = measure(patient, out / f"maps-{arguments.patient}" / title.replace(" ", "-"), bundle, names)
    for title, row in rows.items():
        print(f"{title:15s}" + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(json.dumps(rows))


def ways(bundle: Path) -> list[tuple[str, Path, tuple[str, ...]]]:
    """Title, bundle and the sequences that the scan has, of each row."""
    alone = [(name, bundle / "fit" / name, (name,)) for name in NAMES]
    without = [(f"without {name}", bundle, tuple(other for other in NAMES if other != name)) for name in NAMES]
    return [*alone, ("all", bundle, NAMES), *without]


def measure(patient: Path, out: Path, bundle: Path, names: tuple[str, ...]) -> dict[str, float]:
    """Map a patient's scan of these sequences; figures, seconds and largest memory in GB."""
    out.mkdir(parents=True, exist_ok=True)
    images = [str(patient / f"{name}.nii.gz") for name in names]
    scan = {"image": images, "channels": names, "name": "scan"}
    write_json(out / "scan.json", {"test": [scan]})
    cost = call("infer", "--bundle", bundle, "--images", out / "scan.json", "--out", out / "maps", "--no-report")
    anomaly = np.asarray(nib.load(out / "maps" / "scan_anomaly.nii.gz").dataobj)
    lesions = np.asarray(nib.load(patient / "lesions.nii.gz").dataobj) > 0
    chain = preprocess_scan()
    image = chain({"image": str(patient / "FLAIR.nii.gz"), "name": "scan"})["image"]
    brain = np.asarray(chain.inverse({"image": image})["image"])[0] > 0
    crop = (slice(None), slice(None), SLICES)
    metrics = AnomalyMetrics(froc=False)
    metrics.update("scan", anomaly[crop] * brain[crop], mask=lesions[crop] & brain[crop], foreground=brain[crop])
    figures = metrics.compute(bootstrap=0)
    return {**{key: figures[key] for key in FIGURES}, **cost}


def call(*words: object) -> dict[str, float]:
    """Run a command of the package; its seconds and largest memory."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "monai_dpmm_ad", *map(str, words)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with {process.returncode}")
    return {"seconds": time.monotonic() - start, "GB": usage.ru_maxrss / 2**20}


if __name__ == "__main__":
    main()
