# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What judging by place costs: a fit and a run with and without it, and its steps by the size of a scan.

    OMP_NUM_THREADS=1 python benchmarks/place_cost.py --data ../shared/data --out runs/place_cost [--heads 12]
        [--embedder runs/inference/vit-s --image-size 448]

Bundles are fitted to so many IXI heads of 2 mm, half as many are held out, with the command's defaults and with
``--normative off``; both map a head of 2 mm and a real scan of 1 mm (T1 of MS patient 19). Processor seconds and most
memory of whole commands, start of Python included; the fit that judges by place also matches its held-out scans.
``--embedder`` may name the ViT-S/14 of random weights that `benchmarks/inference.py` writes. Then, in one process and
thread, the steps of one scan: matching (with the coarse registration), registering what was matched (the rest, with the
smooth field) and finishing the map, of the same two scans and of the second one resampled to 0.5 mm. Prints tables and
a JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output
from normative_cohort import deal, write_scan
from sequences import call

from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.transforms import preprocess_scan

WAYS = ("off", "on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/place_cost"))
    parser.add_argument("--heads", type=int, default=12, help="heads to fit, and half as many to hold out")
    parser.add_argument("--embedder", default="compact")
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    data, out = arguments.data.resolve(), arguments.out.resolve()
    cohort, dealt = data / "ixi_t1_2mm", deal(data / "ixi_t1_2mm", 0)
    names = {"fitted": dealt.fitted[: arguments.heads], "held_out": dealt.calibrated[: arguments.heads // 2]}
    for part, members in names.items():
        for name in members:
            write_scan(cohort, out / part, name, "healthy", 0)
    small = write_scan(cohort, out / "test", dealt.test[0], "healthy", 0)
    large = data / "ms_mri_3d" / "patient19" / "T1.nii.gz"
    options = ("--embedder", arguments.embedder, "--image-size", arguments.image_size)
    costs = {way: run(out, way, options, {"2 mm": small, "1 mm": large}) for way in WAYS}
    print("| CPU s, GB | " + " | ".join(costs["on"]) + " |")
    for way in WAYS:
        cells = [f"{cost['seconds']:.1f}, {cost['GB']:.2f}" for cost in costs[way].values()]
        print(f"| --normative {way} | " + " | ".join(cells) + " |")
    ratios = {name: costs["on"][name]["seconds"] / costs["off"][name]["seconds"] for name in costs["on"]}
    more = {name: costs["on"][name]["GB"] - costs["off"][name]["GB"] for name in costs["on"]}
    print("| ratio, GB more | " + " | ".join(f"{ratios[name]:.2f}, {more[name]:.2f}" for name in ratios) + " |")
    fine = out / "fine.nii.gz"
    if not fine.exists():
        nib.save(resample_to_output(nib.load(large), 0.5, order=1), fine)
    model, steps = AnomalyModel.load(out / "bundle-on"), {}
    print("| scan | voxels | match, s | register, s | finish, s |")
    for name, path in {"2 mm": small, "1 mm": large, "0.5 mm": fine}.items():
        steps[name] = time_steps(model, path)
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in steps[name].values()) + " |", flush=True)
    print(json.dumps({"costs": costs, "ratios": ratios, "steps": steps}))


def run(out: Path, way: str, options: tuple[object, ...], scans: dict[str, Path]) -> dict[str, dict[str, float]]:
    """What a fit and mapping each scan cost, see `call`."""
    scratch = Path(tempfile.mkdtemp(dir=out))  # a fit goes on where one was before, and would cost nothing
    fitted, held_out = ((out / part / "healthy").glob("*.nii.gz") for part in ("fitted", "held_out"))
    words = ("--images", *sorted(fitted), "--held-out", *sorted(held_out), *options)
    costs = {"fit": call("fit", *words, "--out", scratch / "bundle", "--normative", way)}
    for name, path in scans.items():
        words = ("--bundle", scratch / "bundle", "--images", path, "--out", scratch / name, "--no-report")
        costs[f"infer {name}"] = call("infer", *words)
    shutil.rmtree(out / f"bundle-{way}", ignore_errors=True)
    shutil.move(scratch / "bundle", out / f"bundle-{way}")
    shutil.rmtree(scratch)
    return costs


def time_steps(model: AnomalyModel, path: Path) -> dict[str, float]:
    """Seconds of a thread that each step of judging a scan by place takes."""
    normative = model.network.normative
    assert normative is not None
    scan = preprocess_scan()({"image": str(path), "name": path.name})["image"]
    image, affine = np.asarray(scan)[0], np.asarray(scan.affine)
    costs: dict[str, float] = {"voxels": float(image.size)}
    match, start = timed(costs, "match", lambda: normative.match(image, affine))
    matched = image if match is None else match.apply(image, affine)
    frame = timed(costs, "register", lambda: normative.find_frame(matched, affine, start))
    timed(costs, "finish", lambda: normative(matched, matched, affine, frame))
    return costs


def timed(costs: dict[str, float], name: str, function: Callable[[], Any]) -> Any:
    """Call a function and note its processor seconds."""
    begun = time.process_time()
    result = function()
    costs[name] = time.process_time() - begun
    return result


if __name__ == "__main__":
    main()
