# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Most memory that a command takes, beside the volume as float32: the table of docs/scale.md.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --out runs/memory

Each command runs in a process of its own; its peak is what the system says of it, imports and model included. The aim
is four times the volume and 1 GB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

__all__ = ["SHAPES", "measure_peak", "write_volume"]

#: voxels; the last one is a file of little more than a megabyte
SHAPES = {
    "MRI of 1 mm": (182, 218, 182),
    "CT of 0.5 mm, head": (512, 512, 320),
    "CT of a body": (512, 512, 600),
    "almost empty": (800, 800, 800),
}


def write_volume(path: Path, shape: tuple[int, int, int], empty: bool = False) -> None:
    """Write a CT-like ellipsoid as int16, with noise unless it shall compress to almost nothing."""
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    values = np.empty(shape, np.int16)
    generator = np.random.default_rng(0)
    for index, x in enumerate(axes[0]):  # slab by slab, lest this script needs what it measures
        inside = x**2 + axes[1][:, None] ** 2 + axes[2][None] ** 2 < 0.8
        noise = 0 if empty else generator.normal(0, 30, shape[1:])
        tissue = 40 + 400 * np.cos(3 * x) * np.cos(2 * axes[1])[:, None] * np.cos(2 * axes[2])[None]
        values[index] = np.where(inside, tissue + noise, -1000)
    nib.save(nib.Nifti1Image(values, np.diag([0.5, 0.5, 0.5, 1])), path)


def measure_peak(command: list[str]) -> int:
    """Run a command; its most resident memory in bytes.

    Raises:
        RuntimeError: when it fails.
    """
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {child.returncode}\n{said}")
    return usage.ru_maxrss * 1024


def _make_bundle(folder: Path, embedder: str) -> Path:
    from monai_dpmm_ad.commands import fit
    from monai_dpmm_ad.data import write_cohort

    cohort = write_cohort(folder / "cohort", spacing=4.0, size="small", num_train=3, num_valid=2)
    fit([cohort], folder / "bundle", embedder_name=embedder, num_components=16, max_epochs=1, intensity="ct_window")
    return folder / "bundle"


def _commands(bundle: Path, scan: Path, copies: Path, out: Path, embedder: str) -> dict[str, list[str]]:
    fit = ["fit", "--out", str(out), "--images", str(copies), "--embedder", embedder, "--intensity", "ct_window"]
    infer = ["infer", "--bundle", str(bundle), "--out", str(out)]
    evaluate = ["evaluate", "--bundle", str(bundle), "--out", str(out), "--data", str(copies / "list.json")]
    return {
        "`infer --no-report`": [*infer, "--images", str(scan), "--no-report"],
        "`infer`": [*infer, "--images", str(scan)],
        "`infer`, three scans": [*infer, "--images", str(copies)],
        "`evaluate`": evaluate,
        "`fit`, three scans": [*fit, "--num-components", "16", "--max-epochs", "1"],
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--embedder", default="compact")
    parser.add_argument("--commands", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="numbers of the columns")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bundle = options.out / "bundle"
    if not (bundle / "models" / "model.pt").is_file():
        _make_bundle(options.out, options.embedder)
    for number, name in enumerate(options.shapes):
        shape = SHAPES[name]
        folder = options.out / "copies"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        scan = folder / "scan.nii.gz"
        write_volume(scan, shape, empty=name == "almost empty")
        for copy in ("second", "third"):
            os.link(scan, folder / f"{copy}.nii.gz")
        mask = nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([0.5, 0.5, 0.5, 1]))
        mask.dataobj[shape[0] // 2, shape[1] // 2, :] = 1
        nib.save(mask, options.out / "truth.nii.gz")
        (folder / "list.json").write_text('{"test": [{"image": "scan.nii.gz", "label": "../truth.nii.gz"}]}')
        size = 4 * int(np.prod(shape))
        commands = _commands(bundle, scan, folder, options.out / "results", options.embedder)
        chosen = [list(commands)[index] for index in options.commands]
        if number == 0:
            heads = ["volume", "voxels", "file, MB", "float32, GB", *chosen, "aim, GB"]
            print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)
        cells = [name, "×".join(map(str, shape)), f"{scan.stat().st_size / 1e6:.1f}", f"{size / 1e9:.2f}"]
        for head in chosen:
            shutil.rmtree(options.out / "results", ignore_errors=True)
            peak = measure_peak([sys.executable, "-m", "monai_dpmm_ad", *commands[head]])
            cells.append(f"{peak / 1e9:.2f} ({(peak - 1e9) / size:.1f} ×)")
        print(f"| {' | '.join([*cells, f'{(4 * size + 1e9) / 1e9:.2f}'])} |", flush=True)


if __name__ == "__main__":
    _main()
