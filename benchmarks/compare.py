# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Changes between two visits of MS patients, beside plain subtraction of registered, intensity-matched images.

    python benchmarks/compare.py --data ../shared/data --out runs/compare [--image-size 448] [--picture FILE]

A bundle is fitted on the FLAIR of ``ms_mri_3d`` (two patients, without the patches that their lesion masks touch),
and both visits of patients 12 and 19 of ``ms_longitudinal`` are compared. Their brains are cut out by the data set's
mask, through its transforms; that of patient 19 is of the whole head, so the brain is found in it. *map* is what
`compare` uses; *subtraction* is what it knows of intensities alone, after the same registration and matching: the
difference over its spread. Of each, the regions above a level are counted: a lesion of the truth larger than 50 mm³
is found where a region touches it; a region is false that has no truth, of any size, within 2 mm. For 1, 2, 4, 8 and
16 false regions a pair the table has the share of lesions that are found at a level with at most so many. There is no
healthy FLAIR, so no p-value can be tested here. What is mapped is kept in ``--out``: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.healthy_pairs import as_visit
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.handlers.changes import LEAST_CHANGE
from monai_dpmm_ad.normative.change import CHANGE_THRESHOLD, Change, compare_visits, match_intensities, standardize_by
from monai_dpmm_ad.normative.halfway import bring
from monai_dpmm_ad.normative.visits import Visit
from monai_dpmm_ad.utils.files import replace_file

PATIENTS = ("patient12", "patient19")
ALLOWED = (1, 2, 4, 8, 16)
SMALLEST = 50.0  # mm³
NEAR = 2.0  # mm
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
EVERYWHERE = np.ones((3, 3, 3))
LARGEST_BRAIN = 1900.0  # mL; a mask that holds more is of a head
Matrix = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--picture", type=Path, help="draw both pairs into this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    data, out = arguments.data.resolve(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    cells, drawn = {}, []
    for patient in PATIENTS:
        visits = [map_visit(data, out, patient, number, arguments.image_size) for number in (1, 2)]
        change = compare_visits(*visits)
        truth = bring_truth(data / "ms_longitudinal" / patient, change)
        cells[patient] = {way: count(values, truth, change) for way, values in make_ways(change).items()}
        drawn.append((patient, change))
    report(cells)
    if arguments.picture:
        from monai_dpmm_ad.handlers.changes import find_changes
        from monai_dpmm_ad.reporting.changes import plot_changes

        plot_changes(arguments.picture, [(name, change, find_changes(change)[0], None) for name, change in drawn])


def map_visit(data: Path, out: Path, patient: str, number: int, image_size: int) -> Visit:
    """Map a visit's brain, or read what was kept of it."""
    path = out / f"{patient}_{number}.npz"
    if not path.exists():
        scan = out / f"{patient}_study{number}.nii.gz"
        if not scan.exists():
            image = cut_brain(data / "ms_longitudinal" / patient, number)
            replace_file(scan, lambda temporary: nib.save(image, temporary))
        visit = as_visit(load_model(data, out, image_size).predict(scan, keep_images=True))
        kept = {key: getattr(visit, key) for key in ("image", "affine", "anomaly_map", "mask", "map_affine")}
        replace_file(path, lambda temporary: save(temporary, kept))
    with np.load(path) as file:
        return Visit(str(path), **{key: file[key] for key in file.files})


def save(path: Path, arrays: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_model(data: Path, out: Path, image_size: int) -> AnomalyModel:
    bundle = out / "bundle"
    if not is_fitted(bundle):
        scans = [
            {"image": str(folder / "FLAIR.nii.gz"), "label": str(folder / "lesions.nii.gz"), "subject": folder.name}
            for folder in sorted((data / "ms_mri_3d").glob("patient*"))
        ]
        listed = out / "fitted.json"
        listed.write_text(json.dumps({"training": scans}), encoding="utf-8")
        options: dict[str, Any] = {"validation_fraction": 0.0, "intensity_side": "bright", "max_epochs": 2}
        fit([listed], bundle, image_size=image_size, **options)
    return AnomalyModel.load(bundle)


def cut_brain(folder: Path, number: int) -> nib.Nifti1Image:
    """A visit's own grid, outside of the brain 0: its mask comes from the common space."""
    image, mask = nib.load(folder / f"study{number}_FLAIR.nii.gz"), nib.load(folder / "brainmask.nii.gz")
    index = np.linalg.inv(mask.affine) @ np.linalg.inv(read_transform(folder, number)) @ image.affine
    values = np.asarray(mask.dataobj, dtype=np.float32)
    brain = ndimage.affine_transform(values, index[:3, :3], index[:3, 3], output_shape=image.shape, order=1) > 0.5
    scan = np.asarray(image.dataobj, dtype=np.float32)
    spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(0))
    if brain.sum() * spacing.prod() > 1000 * LARGEST_BRAIN:
        brain = find_brain(scan, brain, spacing)
    return nib.Nifti1Image(np.where(brain, np.maximum(scan, 1), 0), image.affine)


def find_brain(
    scan: NDArray[np.float32], head: NDArray[np.bool_], spacing: NDArray[np.float64], radius: float = 4.0
) -> NDArray[np.bool_]:
    """The largest part of a head's bright tissue that hangs together over more than twice ``radius`` (mm)."""
    bright = head & (scan > 0.6 * np.median(scan[head]))
    parts, _ = ndimage.label(ndimage.distance_transform_edt(bright, sampling=spacing) > radius)
    core = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    near = ndimage.distance_transform_edt(~core, sampling=spacing) <= radius + 2
    return np.asarray(ndimage.binary_fill_holes(near & head))


def read_transform(folder: Path, number: int) -> Matrix:
    """From the common space to a visit's own (RAS, mm)."""
    text = (folder / f"study{number}_FLAIR_to_common_space.txt").read_text(encoding="utf-8")
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    values, centre = (np.array(lines[key].split(), float) for key in ("Parameters", "FixedParameters"))
    matrix = np.eye(4)
    matrix[:3, :3] = values[:9].reshape(3, 3)
    matrix[:3, 3] = values[9:] + centre - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS


def bring_truth(folder: Path, change: Change) -> NDArray[np.bool_]:
    """The mask of changed lesions in the space half-way, by the data set's own transform of the first visit."""
    truth = nib.load(folder / "gt.nii.gz")
    way = np.linalg.inv(read_transform(folder, 1)) @ change.pair.to_before
    return bring(np.asarray(truth.dataobj) > 0, np.asarray(truth.affine), change.pair.lattice, way) > 0.5


def make_ways(change: Change) -> dict[str, NDArray[np.float32]]:
    """The maps that are compared, all as sizes: what changed in either direction."""
    spacing = change.pair.lattice.spacing
    smooth = [ndimage.gaussian_filter(image, 1.0 / spacing, truncate=3) for image in change.images]
    inside = ndimage.binary_erosion(np.minimum(*(image > 0 for image in change.images)), iterations=2)
    residual = match_intensities(smooth[0], smooth[1], inside)
    plain = standardize_by(residual, np.zeros_like(residual), inside, 0.01)
    return {"map": np.abs(change.change), "subtraction": np.abs(plain), "brighter alone": np.maximum(plain, 0)}


def count(values: NDArray[np.float32], truth: NDArray[np.bool_], change: Change) -> dict[str, Any]:
    """Found lesions and false regions at every level that a region's peak can have."""
    spacing = change.pair.lattice.spacing
    lesions, number = ndimage.label(truth, EVERYWHERE)
    sizes = np.bincount(lesions.ravel(), minlength=number + 1)[1:] * spacing**3
    large = np.flatnonzero(sizes >= SMALLEST) + 1
    near = ndimage.binary_dilation(truth, EVERYWHERE, iterations=max(1, round(NEAR / spacing)))
    levels = np.unique(np.quantile(values[values > 0], 1 - np.geomspace(1e-5, 5e-2, 60)))
    rows = []
    for level in levels:
        regions, count_regions = ndimage.label(values > level, EVERYWHERE)
        true = np.unique(regions[near])
        found = np.isin(large, np.unique(lesions[values > level]))
        rows.append((float(level), int(count_regions - (true > 0).sum()), int(found.sum())))
    return {"lesions": len(large), "rows": rows}


def report(cells: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print the table, and all of it as a line of JSON."""
    print("| pair | changed lesions | way | " + " | ".join(f"≤ {allowed} false" for allowed in ALLOWED) + " |")
    print("| --- | --- | --- |" + " --- |" * len(ALLOWED))
    for patient, ways in cells.items():
        for way, cell in ways.items():
            shares = [
                max((f for _, false, f in cell["rows"] if false <= n), default=0) / cell["lesions"] for n in ALLOWED
            ]
            print(f"| {patient} | {cell['lesions']} | {way} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
    print(json.dumps({"least": LEAST_CHANGE, "begin": CHANGE_THRESHOLD, "cells": cells}))


if __name__ == "__main__":
    main()
