# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What judging scores by place buys, on real healthy heads with implants, measured through the product.

    python benchmarks/normative.py --data ../shared/data/ixi_t1_2mm --out runs/normative [--part choose] [--seeds 0 1 2]
        [--detector memory_bank] [--settings '{"covariance": "rotated"}']

A seed fits a bundle to 50 heads with the command's defaults and calibrates it on 25. Part ``choose`` looks at those 25,
each healthy, with small, with large implants and with the mask of a real patient's lesions: what is chosen is chosen
there. Part ``test`` looks at 35 others, in thirds, and the masks in two thirds. ``mixture`` is the detector's own map,
flagged where 1 % of the held-out healthy voxels are exceeded; ``finished`` the map, the score and the regions that a
user gets. Of several seeds the mean is printed, and of the image AUROC the spread; ``--implants 0`` gives all seeds the
implants of seed 0, so that what moves is the fit alone. ``--settings`` are further ones of the fit; detectors share the
embeddings of a seed. ``--parts`` has rows for the detector's channel and for the intensities alone. What is measured of
a scan is kept in ``--out``: an interrupted run goes on. ``--picture FILE`` draws both maps of some heads.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
import torch
from normative_cohort import IMPLANTS, Deal, deal, write_lesion_masks, write_scan
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.normative.combination import combine, surprise
from monai_dpmm_ad.ops.pooling import pool_image_score
from monai_dpmm_ad.utils.files import replace_file

KINDS = (*IMPLANTS, "masks")
WAYS = ("mixture", "finished")
PARTS = ("mixture", "place", "intensity", "finished")
RATE = 0.01
FRAME_KINDS = ("deformed", "affine", "box")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ixi_t1_2mm"))
    parser.add_argument("--out", type=Path, default=Path("runs/normative"))
    parser.add_argument("--part", choices=("choose", "test"), default="choose")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--heads", action="store_true", help="whole heads instead of brains")
    parser.add_argument("--detector", default="dpmm", help="the detector that is fitted")
    parser.add_argument("--settings", type=json.loads, default={}, help="further settings of the fit, JSON")
    parser.add_argument("--implants", type=int, help="seed of the implants and of who gets them (default: the fit's)")
    parser.add_argument("--parts", action="store_true", help="rows for what the map is made of as well")
    parser.add_argument("--fitted", type=int, help="fit so many of the 50 heads only")
    parser.add_argument("--limit", type=int, help="look at so many heads of the part only")
    parser.add_argument("--picture", type=Path, help="draw the maps of some heads into this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    figures = []
    for seed in arguments.seeds:
        study = Study(
            arguments.data.resolve(),
            arguments.out.resolve(),
            seed,
            not arguments.heads,
            arguments.detector,
            fitted=arguments.fitted,
            implants=arguments.implants,
            settings=arguments.settings,
            ways=PARTS if arguments.parts else WAYS,
        )
        figures.append(report(study, arguments.part, study.cases(arguments.part, arguments.limit)))
        if arguments.picture:
            draw(study, arguments.part, arguments.picture, arguments.limit)
    if len(figures) > 1:
        print_rows(f"{len(figures)} seeds, mean", {way: average([row[way] for row in figures]) for way in study.ways})
        spread = {kind: max(v) - min(v) for kind in KINDS if (v := [row["finished"][kind][2] for row in figures])}
        print("largest difference of the image AUROC: " + ", ".join(f"{k} {v:.3f}" for k, v in spread.items()))


class Study:
    """A fitted bundle and what it says of scans, made when it is asked for and kept."""

    def __init__(
        self,
        data: Path,
        out: Path,
        seed: int,
        brains: bool = True,
        detector: str = "dpmm",
        fold: int = 0,
        match: str = "on",
        fitted: int | None = None,
        implants: int | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
        ways: Sequence[str] = WAYS,
    ) -> None:
        self.data, self.seed, self.brains, self.detector, self.match = data, seed, brains, detector, match
        self.fitted, self.settings, self.ways = fitted, dict(settings), ways
        self.implants = seed if implants is None else implants
        cohort = ["brains" if brains else "heads", f"seed{seed}", *([f"fold{fold}"] if fold else [])]
        cohort += [*(["unmatched"] if match == "off" else []), *([f"fitted{fitted}"] if fitted else [])]
        self.embeddings = out / "-".join(["embeddings", *cohort])
        words = [re.sub(r"\W+", "-", f"{name}-{value}") for name, value in sorted(self.settings.items())]
        self.out = out / "-".join([*cohort, *([detector] if detector != "dpmm" else []), *words])
        self.deal: Deal = replace(deal(data, seed, fold), seed=self.implants)

    def place(self, kind: str) -> Path:
        """The folder of scans of a kind: other implants than the seed's own lie apart."""
        return self.out / (f"implants{self.implants}" if self.implants != self.seed and kind != "healthy" else "")

    def cases(self, part: str, limit: int | None) -> list[tuple[str, str]]:
        """Name and kind of the scans of a part."""
        if part == "choose":
            return [(name, kind) for name in self.deal.calibrated[:limit] for kind in ("healthy", *KINDS)]
        dealt = [(name, self.deal.kind(name)) for name in self.deal.test[:limit]]
        return dealt + [(name, "masks") for name, kind in dealt if kind != "healthy"]

    @cached_property
    def model(self) -> AnomalyModel:
        bundle = self.out / "bundle"
        if not is_fitted(bundle):
            fitted, held_out = (
                [self.write(name, "healthy") for name in names]
                for names in (self.deal.fitted[: self.fitted], self.deal.calibrated)
            )
            fit(
                fitted,
                bundle,
                held_out=held_out,
                seed=self.seed,
                detector_name=self.detector,
                match=self.match,
                shared_embeddings=str(self.embeddings),
                **self.settings,
            )
        return AnomalyModel.load(bundle)

    def write(self, name: str, kind: str) -> Path:
        if kind == "masks":
            normative = self.model.network.normative
            assert normative is not None
            return write_lesion_masks(
                self.data, self.place(kind) / "scans", name, self.implants, normative, self.brains
            )
        return write_scan(self.data, self.place(kind) / "scans", name, kind, self.implants, self.brains)

    def measure(self, name: str, kind: str) -> dict[str, Any]:
        """Both maps of a scan where it has foreground, the truth, and what the product flags."""
        path = self.place(kind) / "cells" / f"{kind}-{name}.npz"
        if path.exists():
            with np.load(path) as kept:
                if set(self.ways) <= set(kept.files):
                    return {key: kept[key] for key in kept.files}
        cell = self._predict(name, kind)
        path.parent.mkdir(exist_ok=True, parents=True)
        replace_file(path, lambda temporary: _save(temporary, cell))
        return {key: np.asarray(value) for key, value in cell.items()}

    def _predict(self, name: str, kind: str) -> dict[str, Any]:
        seen: list[tuple[Any, Any]] = []
        model, path = self.model, self.write(name, kind)
        assert model.network.normative is not None
        hook = model.network.normative.register_forward_hook(lambda _, args, out: seen.append((args, out)))
        result = model.predict(path)
        hook.remove()
        (mixture, image, affine, frame), finished = seen[0]
        truth = np.asarray(nib.load(self.place(kind) / "scans" / kind / "masks" / path.name).dataobj) > 0
        inside = image > 0
        to_native = np.linalg.inv(result.affine) @ affine
        index = np.rint(np.argwhere(inside) @ to_native[:3, :3].T + to_native[:3, 3]).astype(int)
        lesions, number = ndimage.label(truth, np.ones((3, 3, 3)))
        found = len(np.unique(lesions[result.mask & truth]))
        maps = {"mixture": mixture, "finished": finished}
        if "place" in self.ways:
            network = model.network.normative
            channels = network.standardize(mixture, image, affine, frame)
            weights = network.channel_weights[: len(channels)]
            maps["place"] = surprise(channels[0]).numpy() * inside
            maps["intensity"] = (combine(channels, [0.0, *weights[1:]]).numpy() if channels[1:] else mixture) * inside
        scores = {
            way: pool_image_score(torch.tensor(maps[way])[None], torch.tensor(inside)[None], "top1pct") for way in maps
        }
        return {way: values[inside] for way, values in maps.items()} | {
            "truth": truth[tuple(index.T)],
            "index": index.astype(np.int16),
            "scores": [result.score if way == "finished" else float(scores[way]) for way in self.ways],
            "regions": [len(result.regions), found, number],
            "frame": frame.kind,
        }


def _save(path: Path, cell: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **cell)


def report(study: Study, part: str, cases: list[tuple[str, str]]) -> dict[str, Any]:
    """Print a row of a table for each map, and all figures as a line of JSON."""
    cells = {case: study.measure(*case) for case in cases}
    healthy = [cells.get((name, "healthy")) or study.measure(name, "healthy") for name in study.deal.calibrated]
    figures: dict[str, Any] = {"seed": study.seed, "part": part, "brains": study.brains, "detector": study.detector}
    figures["settings"], figures["implants"] = study.settings, study.implants
    figures["frames"] = {str(kind): [str(c["frame"]) for c in cells.values()].count(kind) for kind in FRAME_KINDS}
    for way in study.ways:
        number = -1 if way == "finished" else PARTS.index(way)
        threshold = float(np.quantile(np.concatenate([cell[way] for cell in healthy]), 1 - RATE))
        row: dict[str, Any] = {kind: describe(cells, kind, way, number, threshold) for kind in KINDS}
        counts = [count(cell, way, threshold)[0] for (_, kind), cell in cells.items() if kind == "healthy"]
        figures[way] = row | {"regions of a healthy scan": [float(np.mean(counts)), float(np.median(counts))]}
    title = ", ".join([study.detector, *(f"{name} {value}" for name, value in study.settings.items())])
    print_rows(f"{title}, seed {study.seed}, {part}", figures)
    print(json.dumps(figures), flush=True)
    return figures


def print_rows(title: str, figures: dict[str, Any]) -> None:
    """Print a row for each map."""
    columns = " | ".join(f"{kind}: AUROC / AP, image, found" for kind in KINDS)
    print(f"| {title} | {columns} | regions of a healthy scan |")
    for way in (way for way in PARTS if way in figures):
        parts = [f"{a:.3f} / {p:.3f}, {i:.2f}, {f:.2f}" for a, p, i, f in (figures[way][kind] for kind in KINDS)]
        mean, median = figures[way]["regions of a healthy scan"]
        print(f"| {way} | " + " | ".join(parts) + f" | {mean:.1f} (median {median:.0f}) |", flush=True)


def average(rows: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """The mean of each figure over rows of one shape."""
    return {key: np.mean([row[key] for row in rows], 0).tolist() for key in rows[0]}


def describe(
    cells: dict[tuple[str, str], dict[str, Any]], kind: str, way: str, number: int, threshold: float
) -> list[float]:
    """Voxel AUROC and AP inside the foreground, image AUROC against the healthy, share of lesions found."""
    chosen = [cell for (_, k), cell in cells.items() if k == kind]
    scores, truth = (np.concatenate([cell[key] for cell in chosen]) for key in (way, "truth"))
    pooled = [(k == kind, cell["scores"][number]) for (_, k), cell in cells.items() if k in ("healthy", kind)]
    found = np.array([count(cell, way, threshold)[1:] for cell in chosen]).sum(0)
    image = roc_auc_score(*zip(*pooled, strict=True))
    values = roc_auc_score(truth, scores), average_precision_score(truth, scores), image, found[0] / found[1]
    return [float(value) for value in values]


def count(cell: dict[str, Any], way: str, threshold: float) -> tuple[int, int, int]:
    """Flagged regions, lesions that a flagged voxel touches, lesions."""
    if way == "finished":
        flagged, found, number = cell["regions"]
        return int(flagged), int(found), int(number)
    shape = cell["index"].max(0) + 1
    mask, truth = np.zeros(shape, bool), np.zeros(shape, bool)
    mask[tuple(cell["index"].T)], truth[tuple(cell["index"].T)] = cell[way] > threshold, cell["truth"]
    lesions, number = ndimage.label(truth, np.ones((3, 3, 3)))
    return ndimage.label(mask, np.ones((3, 3, 3)))[1], len(np.unique(lesions[mask & truth])), number


def draw(study: Study, part: str, path: Path, limit: int | None) -> None:
    """Draw a healthy head and one of each kind: the scan with its truth, the mixture's map, the finished one."""
    from matplotlib.figure import Figure

    cases = study.cases(part, limit)
    chosen = [next(case for case in cases if case[1] == kind) for kind in ("healthy", *KINDS)]
    figure = Figure(figsize=(9, 3 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), 3)
    tops = [np.quantile(study.measure(*chosen[1])[way], 0.999) for way in WAYS]
    for row, (name, kind) in zip(axes, chosen, strict=True):
        cell = study.measure(name, kind)
        image = np.asarray(nib.load(study.write(name, kind)).dataobj)
        volumes = {key: np.zeros(image.shape, np.float32) for key in (*WAYS, "truth")}
        for key, volume in volumes.items():
            volume[tuple(cell["index"].T)] = cell[key]
        plane = int(volumes["truth"].sum((0, 1)).argmax()) if kind != "healthy" else image.shape[2] // 2
        for axis, top, key in zip(row, (None, *tops), ("", *WAYS), strict=True):
            shown = volumes[key] if key else image
            axis.imshow(shown[:, :, plane], cmap="inferno" if key else "gray", vmin=0, vmax=top)
            if volumes["truth"][:, :, plane].any():
                axis.contour(volumes["truth"][:, :, plane], [0.5], colors="cyan", linewidths=0.8)
            axis.set_axis_off()
            axis.set_title(key or f"{name}, {kind}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
