# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is left of a detector on another scanner: simulated acquisitions of heads with implants, and real MS scans.

    python benchmarks/shift.py --data ../shared/data --out runs/shift [--part choose] [--limit 6] [--match off] [--real]
        [--before n4] [--augment 1]

A bundle is fitted to 50 IXI heads and calibrated on 25, as in `benchmarks/normative.py`, whose ``--out`` may be given.
Then heads without and with a large implant are acquired in each way of `benchmarks/acquisitions.py` and mapped. Part
``choose`` takes the heads of the calibration: what is chosen is chosen there. Part ``test`` takes others. Figures are
inside the brain: voxel AUROC and AP, image AUROC against healthy heads of the same acquisition, flagged regions of a
healthy head, how many heads are marked as out of range, whether ``drift.json`` would warn of the healthy ones, and what
share of AP and image AUROC without shift is left. Brain that is taken for skull counts with a score of 0. ``--real``
maps T1 of the two MS patients, ``--heads`` fits whole heads. ``--before`` normalises each scan by a known way before it
is mapped (`benchmarks/normalisers.py`), the fitted ones and those of the calibration stay as they are. ``--augment``
fits so many copies of each head as other scanners might have acquired it. What is measured of a scan is kept in
``--out``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from acquisitions import ACQUISITIONS, Head, acquire
from monai.utils import CommonKeys
from normalisers import NORMALISERS, find_landmarks, normalise
from normative import Study
from normative_cohort import save_array
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_dpmm_ad.engines import PATCH_SUMMARY
from monai_dpmm_ad.transforms.skull import SKULL
from monai_dpmm_ad.utils.files import replace_file

WAYS = ("plain", "mixture", "finished")
PATIENTS = ("patient07", "patient19")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/shift"))
    parser.add_argument("--part", choices=("choose", "test"), default="choose")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=6, help="heads of each kind")
    parser.add_argument("--acquisitions", nargs="+", choices=ACQUISITIONS, default=list(ACQUISITIONS))
    parser.add_argument("--kinds", nargs="+", choices=("small", "large"), default=["large"])
    parser.add_argument("--heads", action="store_true", help="fit whole heads instead of brains")
    parser.add_argument("--detector", default="dpmm", help="the detector that is fitted")
    parser.add_argument("--match", choices=("on", "off"), default="on", help="as of fit: off is how it was before")
    parser.add_argument("--real", action="store_true", help="T1 of the MS patients as well")
    parser.add_argument("--before", choices=NORMALISERS, default="none", help="what is done to scans before")
    parser.add_argument("--augment", type=int, default=0, help="as of fit: copies of each fitted head")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    data, out = arguments.data.resolve(), arguments.out.resolve()
    settings = {"augment": arguments.augment} if arguments.augment else {}
    fitted = (arguments.heads, arguments.detector, arguments.match, settings)
    bench = Bench(data, out, arguments.seed, *fitted, arguments.before)
    figures: dict[str, Any] = {"part": arguments.part, "seed": arguments.seed, "heads": arguments.heads}
    for kind in arguments.kinds:
        figures[kind] = bench.report(arguments.part, kind, arguments.limit, arguments.acquisitions)
    if arguments.real:
        figures["real"] = bench.report_real()
    print(json.dumps(figures))


class Bench:
    """A fitted bundle and what it says of acquired heads, made when it is asked for and kept."""

    def __init__(
        self,
        data: Path,
        out: Path,
        seed: int,
        heads: bool,
        detector: str,
        match: str,
        settings: dict[str, Any],
        before: str = "none",
    ) -> None:
        self.data, self.before = data, before
        self.study = Study(data / "ixi_t1_2mm", out, seed, not heads, detector, match=match, settings=settings)
        self.whole = Study(data / "ixi_t1_2mm", out, seed, False, detector)
        self.out = self.study.out / ("shift" if before == "none" else f"shift-{before}")

    @cached_property
    def standard(self) -> NDArray[np.float64]:
        """The histogram's landmarks of the fitted heads in the mean."""
        paths = [self.study.write(name, "healthy") for name in self.study.deal.fitted]
        return np.mean([find_landmarks(np.asarray(nib.load(path).dataobj, dtype=np.float32)) for path in paths], 0)

    def names(self, part: str, kind: str, limit: int) -> list[str]:
        deal = self.study.deal
        if part == "choose":
            return deal.calibrated[:limit]
        return [name for name in deal.test if deal.kind(name) == kind][:limit]

    def report(self, part: str, kind: str, limit: int, acquisitions: list[str]) -> dict[str, Any]:
        """Print a row for each acquisition."""
        print(
            f"| {kind}, {part} | plain: AUROC / AP | mixture | finished | image | of AP | of image | regions of a "
            "healthy head | marked | drift |",
            flush=True,
        )
        rows: dict[str, Any] = {}
        for acquisition in acquisitions:
            healthy, changed = (
                [self.measure(acquisition, k, name) for name in self.names(part, k, limit)] for k in ("healthy", kind)
            )
            row: dict[str, Any] = {way: judge_voxels(changed, way) for way in WAYS}
            row["image"] = judge_images(healthy, changed)
            row["regions"] = float(np.mean([cell["regions"] for cell in healthy]))
            row["marked"] = [sum(bool(str(cell["warning"])) for cell in cells) for cells in (healthy, changed)]
            row["frames"] = [str(cell["frame"]) for cell in healthy + changed].count("deformed")
            row["drift"] = self.drift(healthy)
            rows[acquisition] = row
            base = rows.get("none", row)
            row["of AP"], row["of image"] = row["finished"][1] / base["finished"][1], row["image"] / base["image"]
            cells = " | ".join(f"{row[way][0]:.3f} / {row[way][1]:.3f}" for way in WAYS)
            print(
                f"| {acquisition} | {cells} | {row['image']:.2f} | {row['of AP']:.2f} | {row['of image']:.2f} | "
                f"{row['regions']:.1f} | {row['marked'][0]} of {len(healthy)}, {row['marked'][1]} of {len(changed)} | "
                f"{'yes' if row['drift'] <= 0.01 else 'no'} ({row['drift']:.3f}) |",
                flush=True,
            )
        return rows

    def report_real(self) -> dict[str, Any]:
        """Print a row for each MS patient; lesions are mostly dark on T1."""
        rows: dict[str, Any] = {}
        print("| T1 of | darkness: AUROC / AP | plain | mixture | finished | frame | warning |")
        for patient in PATIENTS:
            cell = self.measure("real", "lesions", patient)
            rows[patient] = {way: judge_voxels([cell], way) for way in ("darkness", *WAYS)}
            rows[patient] |= {"regions": int(cell["regions"]), "warning": str(cell["warning"])}
            cells = " | ".join(
                f"{auroc:.3f} / {ap:.3f}" for auroc, ap in (rows[patient][w] for w in ("darkness", *WAYS))
            )
            print(
                f"| {patient} | {cells} | {cell['frame']} {float(cell['quality']):.2f} | {cell['warning']} |",
                flush=True,
            )
        return rows

    def drift(self, cells: list[dict[str, Any]]) -> float:
        """p-value of the drift of some scans."""
        profiles, usage = (torch.tensor(np.stack([cell[key] for cell in cells])) for key in ("profile", "usage"))
        return float(self.study.model.network.drift.compare(profiles, usage)["p_value"])

    def measure(self, acquisition: str, kind: str, name: str) -> dict[str, Any]:
        """Scores and truth of a scan inside its brain, and what the product says of it."""
        path = self.out / "cells" / acquisition / f"{kind}-{name}.npz"
        if not path.exists():
            head = self._read(acquisition, kind, name)
            if self.before != "none":
                head = replace(head, values=normalise(head.values, self.before, self.standard))
            cell = self._predict(head, path.with_suffix(".nii.gz"))
            path.parent.mkdir(exist_ok=True, parents=True)
            replace_file(path, lambda temporary: _save(temporary, cell))
        with np.load(path) as kept:
            return {key: kept[key] for key in kept.files}

    def _read(self, acquisition: str, kind: str, name: str) -> Head:
        if acquisition == "real":
            folder = self.data / "ms_mri_3d" / name
            image = nib.load(folder / "T1.nii.gz")
            values = np.maximum(np.asarray(image.dataobj, dtype=np.float32), 0)
            truth = np.asarray(nib.load(folder / "lesions.nii.gz").dataobj) > 0
            return Head(values, truth, (values > 0).astype(np.int16), np.asarray(image.affine))
        study = self.whole if acquisition.startswith("skull") else self.study
        path = study.write(name, kind)
        image, labels = nib.load(path), nib.load(study.data / "labels" / path.name)
        truth = np.asarray(nib.load(path.parent / "masks" / path.name).dataobj) > 0
        head = Head(
            np.asarray(image.dataobj, dtype=np.float32),
            truth,
            np.asarray(labels.dataobj).round().astype(np.int16),
            np.asarray(image.affine),
        )
        return acquire(head, acquisition, name)

    def _predict(self, head: Head, path: Path) -> dict[str, Any]:
        seen: list[tuple[Any, Any]] = []
        model = self.study.model
        assert model.network.normative is not None
        hook = model.network.normative.register_forward_hook(lambda _, args, out: seen.append((args, out)))
        path.parent.mkdir(exist_ok=True, parents=True)
        save_array(head.values, head.affine, path)
        try:
            result = model.predict(path)
        finally:
            hook.remove()
            path.unlink()
        (mixture, image, affine, frame), finished = seen[0][0][:4], seen[0][1]
        index = np.rint(np.argwhere(image > 0) @ (m := np.linalg.inv(head.affine) @ affine)[:3, :3].T + m[:3, 3])
        where = tuple(index.astype(int).T)
        brain = head.labels[where] > 0
        inside = np.where(image > 0)
        intensity = image[inside][brain]
        summary = result.scan[PATCH_SUMMARY]
        lost = (head.labels > 0) & (head.values > 0) & bool(result.scan[CommonKeys.PRED].meta.get(SKULL))
        lost[where] = False  # brain that was taken for skull: it has no score
        none = np.zeros(int(lost.sum()), np.float32)
        return {
            "mixture": np.concatenate([mixture[inside][brain], none]),
            "finished": np.concatenate([finished[inside][brain], none]),
            "plain": np.concatenate([np.abs(intensity - np.median(intensity)), none]),
            "darkness": -np.concatenate([head.values[where][brain], head.values[lost]]),
            "truth": np.concatenate([head.truth[where][brain], head.truth[lost]]),
            "score": result.score,
            "regions": len(result.regions),
            "warning": str(result.row.warning) if result.row.in_range is False else "",
            "frame": frame.kind,
            "quality": frame.quality,
            "profile": summary["profile"],
            "usage": summary["usage"],
        }


def _save(path: Path, cell: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **cell)


def judge_voxels(cells: list[dict[str, Any]], way: str) -> list[float]:
    """AUROC and AP over the voxels of all brains."""
    scores, truth = (np.concatenate([cell[key] for cell in cells]) for key in (way, "truth"))
    return [float(roc_auc_score(truth, scores)), float(average_precision_score(truth, scores))]


def judge_images(healthy: list[dict[str, Any]], changed: list[dict[str, Any]]) -> float:
    """AUROC of the scans' scores."""
    scores = [float(cell["score"]) for cell in healthy + changed]
    return float(roc_auc_score([False] * len(healthy) + [True] * len(changed), scores))


if __name__ == "__main__":
    main()
