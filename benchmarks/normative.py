# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What judging scores by place buys, on real healthy heads with implants.

    python benchmarks/normative.py --data ../shared/data/ixi_t1_2mm --out runs/normative [--part choose] [--seeds 0]

Part ``choose`` fits 50 heads and looks at the 25 of the calibration, each healthy, with small and with a large implant:
what is chosen is chosen there. Part ``test`` looks at the 35 test heads, in thirds. Maps of the detector are kept in
``--out``, so that another way to finish them costs minutes; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from normative_cohort import IMPLANTS, Deal, deal, write_scan
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.normative import Frame, NormativeMap, resample
from monai_dpmm_ad.transforms import preprocess_scan

Array = NDArray[np.float32]
KINDS = ("healthy", *IMPLANTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ixi_t1_2mm"))
    parser.add_argument("--out", type=Path, default=Path("runs/normative"))
    parser.add_argument("--part", choices=("choose", "test"), default="choose")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--frame", default="deformed")
    parser.add_argument("--heads", action="store_true", help="whole heads instead of brains")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for seed in arguments.seeds:
        out = arguments.out / ("heads" if arguments.heads else "brains") / f"seed{seed}"
        run(Study(arguments.data.resolve(), out, seed, not arguments.heads), arguments.part, arguments.frame)


class Study:
    """Scans, maps and frames of one seed, made when they are asked for and kept."""

    def __init__(self, data: Path, out: Path, seed: int, brains: bool) -> None:
        self.data, self.out, self.seed, self.brains = data, out, seed, brains
        self.deal: Deal = deal(data, seed)

    def scan(self, name: str, kind: str) -> Path:
        return write_scan(self.data, self.out / "scans", name, kind, self.seed, self.brains)

    def draw_maps(self, part: str, cases: Iterable[tuple[str, str]]) -> None:
        """Fit the detector where that is still to be done, and draw the maps of the cases that lack one."""
        bundle = self.out / "bundle"
        if not is_fitted(bundle):
            fitted, held_out = (
                [self.scan(n, "healthy") for n in names] for names in (self.deal.fitted, self.deal.calibrated)
            )
            fit(fitted, bundle, held_out=held_out, seed=self.seed)
        for kind in KINDS:
            paths = [self.scan(name, kind) for name, k in cases if k == kind]
            if paths:
                infer(bundle, paths, self.out / "maps" / f"{part}-{kind}", report=False, save_percentile=False)

    def read(self, name: str, kind: str) -> tuple[Array, NDArray[np.float64]]:
        """A scan as the network sees it, and its affine."""
        image = preprocess_scan()({"image": str(self.scan(name, kind)), "name": name})["image"]
        return image.numpy()[0], image.affine.numpy()

    def native(self, name: str, kind: str, part: str) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.float64]]:
        """A scan and its map on its own grid, the scan scaled, with mask and affine."""
        chain = preprocess_scan()
        item = {"image": str(self.scan(name, kind)), "name": name}
        image = np.asarray(chain.inverse({"image": chain(item)["image"]})["image"])[0].astype(np.float32)
        stored = nib.load(self.out / "maps" / f"{part}-{kind}" / f"{name}_anomaly.nii.gz")
        mask = np.asarray(nib.load(self.out / "scans" / kind / "masks" / f"{name}.nii.gz").dataobj) > 0
        return image, np.asarray(stored.dataobj, np.float32), mask, stored.affine


def fit_normative(study: Study, frame: str) -> NormativeMap:
    """Fit the reference and the atlases on the fitted scans; kept for the next run."""
    normative = NormativeMap(frame)
    path = study.out / f"normative-{frame}.pt"
    if path.exists():
        normative.load_state_dict(torch.load(path))
        return normative
    names = study.deal.fitted
    scans = {name: study.read(name, "healthy") for name in names}
    normative.set_reference([resample(image, affine, 4.0) for image, affine in scans.values()])
    frames = {name: normative.find_frame(*scan) for name, scan in scans.items()}
    for name, scan in scans.items():
        normative.observe_intensity(name, *scan, frames[name])
    normative.finish_intensity()
    for name, scan in scans.items():
        normative.observe_deviation(name, *scan, frames[name])
    normative.finish_deviation()
    for name in names:
        normative.observe_scores(name, *_patches(study, name), frames[name])
    normative.finish_scores()
    torch.save(normative.state_dict(), path)
    return normative


def _patches(study: Study, name: str) -> tuple[NDArray[np.float64], Array]:
    """Scores of a fitted scan's map at every other voxel, and their places in mm."""
    image, scores, _, affine = study.native(name, "healthy", "fitted")
    index = np.argwhere(image > 0)[::2]
    return index @ affine[:3, :3].T + affine[:3, 3], scores[tuple(index.T)]


def run(study: Study, part: str, frame: str) -> None:
    """Finish the maps of a part in several ways and print a row for each."""
    if part == "choose":
        cases = [(name, kind) for kind in KINDS for name in study.deal.calibrated]
    else:
        cases = [(name, study.deal.kind(name)) for name in study.deal.test]
    study.draw_maps("fitted", [(name, "healthy") for name in study.deal.fitted])
    study.draw_maps(part, cases)
    normative = fit_normative(study, frame)
    rows: dict[str, list[tuple[str, Array, NDArray[np.bool_]]]] = {}
    for name, kind in cases:
        image, scores, mask, affine = study.native(name, kind, part)
        place: Frame = normative.find_frame(image, affine)
        channels = [c.numpy() for c in normative.standardize(scores, image, affine, place)]
        inside = image > 0
        ways: dict[str, Array] = {"mixture": scores, "by place": channels[0], "intensity": channels[1]}
        ways["finished"] = normative(scores, image, affine, place)
        for way, values in ways.items():
            rows.setdefault(way, []).append((kind, np.where(inside, values, values.min()), mask))
    for way, maps in rows.items():
        print(f"seed {study.seed}, {part}, {way:12s} " + describe(maps), flush=True)


def describe(maps: list[tuple[str, Array, NDArray[np.bool_]]]) -> str:
    """Voxel AUROC and AP, image AUROC by the largest voxel and by the top per mille, of each kind."""
    parts = []
    for kind in IMPLANTS:
        scores, truth = (np.concatenate([m[i][m[1] > m[1].min()] for m in maps if m[0] == kind]) for i in (1, 2))
        cell = f"{kind} {roc_auc_score(truth, scores):.3f} / {average_precision_score(truth, scores):.3f}"
        for pool in (np.max, _top):
            pooled = [(k == kind, pool(values)) for k, values, _ in maps if k in ("healthy", kind)]
            cell += f", image {roc_auc_score(*zip(*pooled, strict=True)):.2f}"
        parts.append(cell)
    return " | ".join(parts)


def _top(values: Array) -> float:
    inside = values[values > values.min()]
    return float(np.sort(inside)[-max(1, len(inside) // 1000) :].mean())


if __name__ == "__main__":
    main()
