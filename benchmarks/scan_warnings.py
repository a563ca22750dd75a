# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How often a healthy scan is warned of, and which scans of other kinds are, on real heads.

    python benchmarks/scan_warnings.py --data ../shared/data/ixi_t1_2mm --out runs/warnings
    python benchmarks/scan_warnings.py --data ../shared/data/brain_mri_2d --out runs/warnings_2d --pictures

Fits the first scans, holds out the next, and maps the others as they are (healthy) and changed: as CT (Hounsfield
units of the same head), with another sequence's contrast, inverted, as a child's head (0.75 of the size), and
standardised inside the head. A photo is refused by a bundle of volumes. With ``--pictures`` the cohort is one of slices
(BMAD's folders), and the other kinds are inverted slices and the photos that scikit-learn and matplotlib come with.
Prints each kind's share of scans with a warning. What is in ``--out`` is used again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image

from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.data import find_scans
from monai_dpmm_ad.transforms import LoadScan, compute_foreground

Change = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]
CHILD = 0.75


def as_ct(data: NDArray[np.float32], head: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Brain at 20 to 50 HU, what is brightest as bone, air at -1000."""
    scaled = data / np.quantile(data[head], 0.99)
    return np.where(head, np.where(scaled > 1, 900.0, 20 + 30 * scaled), -1000.0).astype(np.float32)


def as_other_sequence(data: NDArray[np.float32], head: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fluid brightest, white matter dark: the order of T2."""
    scaled = np.clip(data / np.quantile(data[head], 0.99), 0, 1)
    return np.where(head, 1000 * np.interp(scaled, [0, 0.25, 0.6, 1], [0.1, 1.0, 0.55, 0.3]), data).astype(np.float32)


CHANGES: dict[str, Change] = {
    "healthy": lambda data, head: data,
    "ct": as_ct,
    "other sequence": as_other_sequence,
    "inverted": lambda data, head: np.where(head, data.max() - data, 0).astype(np.float32),
    "child": lambda data, head: data,
    "standardised": lambda data, head: np.where(head, (data - data[head].mean()) / data[head].std(), 0).astype(
        np.float32
    ),
}


def write_changed(scans: Sequence[Path], folder: Path, kind: str) -> None:
    """Write scans as another kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in scans:
        if (folder / path.name).exists():
            continue
        image = nib.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
        head = compute_foreground(LoadScan()(str(path)).as_tensor())[0].numpy()
        affine = image.affine.copy()
        if kind == "child":
            affine[:3, :3] *= CHILD
        nib.save(nib.Nifti1Image(CHANGES[kind](data, head), affine), folder / path.name)


def list_photos() -> list[Path]:
    """Photos that two packages come with: a palace, a flower, a person."""
    images = Path(sklearn.datasets.__file__).parent / "images"
    return [*sorted(images.glob("*.jpg")), Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]


def write_pictures(scans: Sequence[Path], folder: Path, kind: str) -> None:
    """Write slices as they are or inverted, and photos."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in list_photos() if kind.endswith("photo") else scans:
        picture = Image.open(path)
        if kind == "inverted":
            picture = Image.eval(picture.convert("L"), lambda value: 255 - value)
        if kind == "grey photo":
            picture = picture.convert("L")
        picture.save(folder / f"{path.stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ixi_t1_2mm"))
    parser.add_argument("--out", type=Path, default=Path("runs/warnings"))
    parser.add_argument("--fit", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--healthy", type=int, default=40, help="healthy scans that were neither fitted nor held out")
    parser.add_argument("--changed", type=int, default=5, help="scans of each other kind")
    parser.add_argument("--pictures", action="store_true", help="the data are slices in BMAD's folders")
    parser.add_argument("--kinds", nargs="+", help="these alone; all by default")
    arguments = parser.parse_args()
    folder = arguments.data.resolve() / ("train/good/img" if arguments.pictures else "t1")
    paths = [Path(item["image"]) for item in find_scans(folder).items]
    held = arguments.fit + arguments.held_out
    lists = {"training": paths[: arguments.fit], "validation": paths[arguments.fit : held]}
    arguments.out.mkdir(parents=True, exist_ok=True)
    datalist = arguments.out / "datalist.json"
    datalist.write_text(json.dumps({name: [str(path) for path in part] for name, part in lists.items()}))
    bundle = arguments.out / "bundle"
    if not is_fitted(bundle):
        fit([datalist], bundle, **({} if arguments.pictures else {"slice_selection": "uniform", "num_slices": 30}))
    if not arguments.pictures:
        refused = find_scans(list_photos(), spatial_dims=3).failures
        print(f"2D photo: {len(refused)} of {len(list_photos())} refused", flush=True)
    write = write_pictures if arguments.pictures else write_changed
    kinds = ("healthy", "inverted", "2D photo", "grey photo") if arguments.pictures else CHANGES
    for kind in arguments.kinds or kinds:
        folder = arguments.out / kind.replace(" ", "_")
        number = arguments.healthy if kind == "healthy" else arguments.changed
        write(paths[held : held + number], folder, kind)
        outcome = infer(bundle, [folder], folder / "maps", report=False, save_percentile=False)
        warned = [row for row in outcome.scans if row.warning]
        print(f"{kind}: {len(warned)} of {len(outcome.scans)} scans with a warning", flush=True)
        for row in warned[:3]:
            print(f"  {row.name}: {row.warning}", flush=True)


if __name__ == "__main__":
    main()
