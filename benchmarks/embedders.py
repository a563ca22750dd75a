# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Compare embedders, each with the mixture and with memory banks, on nine data sets; see docs/compact.md.

    python benchmarks/embedders.py --data ../shared/data --out runs/embedders \\
        --seed-weights ../shared/weights/seed_vit_ti14

Every finished pair of embedder and data set is a line of ``results.jsonl`` in ``--out``: the same command continues
where it was stopped. Figures of brain_mri_2d and of the inserted lesions are of ``--split``: choose on ``valid``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedder_data import DATA_SETS, Slice
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from monai_dpmm_ad.embedding import create_embedder
from monai_dpmm_ad.embedding.base import Embedder
from monai_dpmm_ad.embedding.types import PatchEmbeddings
from monai_dpmm_ad.metrics.anomaly_metrics import AnomalyMetrics
from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.network.intensity_tail import IntensityTail
from monai_dpmm_ad.network.upsampling import upsample_scores
from monai_dpmm_ad.ops.distances import nearest_cosine_distance
from monai_dpmm_ad.ops.patches import pad_to_multiple, pool_foreground
from monai_dpmm_ad.ops.pooling import pool_image_score
from monai_dpmm_ad.pretraining.checkpoints import export_backbone
from monai_dpmm_ad.pretraining.model import build_backbone
from monai_dpmm_ad.utils.progress import quiet_warnings

MIN_FOREGROUND = 0.25
TAIL_SLICES = 40  # fitted slices that the intensity tail sees
PIXEL_FIGURES = ("pixel_auroc", "pixel_aupr", "aupro", "best_dice")
Score = Callable[[Tensor], Tensor]


class RawPatches(Embedder):
    """Pixels of a patch in their principal directions, with a constant so that normalising keeps the intensity."""

    def __init__(self, slices: list[Slice], patch_size: int = 8, dim: int = 24) -> None:
        super().__init__()
        self._size, self._directions = patch_size, torch.eye(patch_size**2)
        self._constant = torch.ones(1)
        patches = torch.cat([self.embed(s.image).patches.flatten(0, 3)[:, :-1] for s in slices[:100]])
        self._directions = torch.pca_lowrank(patches, dim, center=True)[2]
        self._constant = patches.norm(dim=1).median()[None]

    patch_size = property(lambda self: self._size)
    embed_dim = property(lambda self: self._directions.shape[1] + 1)
    num_stages = property(lambda self: 1)

    def embed(self, images: Tensor) -> PatchEmbeddings:
        """Embed slices."""
        padded, (h, w) = pad_to_multiple(images[:, :1], self._size)
        pixels = F.unfold(padded, self._size, stride=self._size).transpose(1, 2) @ self._directions
        rows = torch.cat([pixels, self._constant.expand(*pixels.shape[:2], 1)], -1)
        return PatchEmbeddings(rows.view(len(images), 1, h, w, -1), rows.mean(1)[:, None])

    def fingerprint(self) -> dict[str, Any]:
        """Describe it."""
        return {"name": "raw patches", "patch_size": self._size}


# -------------------------------------------------------------------------------------------------------------- scoring


@torch.no_grad()
def embed(embedder: Embedder, part: Slice, image_size: int) -> tuple[Tensor, Tensor, float]:
    """Embed one slice as `AnomalyNet` does: tokens ``(h, w, D)``, valid ``(h, w)``, pixels of the slice per patch."""
    scale = image_size / max(part.image.shape[-2:])
    shape = [max(1, round(side * scale)) for side in part.image.shape[-2:]]
    resized = F.interpolate(part.image, shape, mode="bilinear", antialias=True)
    inside = F.adaptive_avg_pool2d((part.image > 0).float(), shape)
    tokens = embedder.embed(resized * (inside > 0)).patches[0, -1]
    share = pool_foreground(inside, embedder.patch_size)[0]
    return F.normalize(tokens.float(), dim=-1), share >= MIN_FOREGROUND, embedder.patch_size / scale


def gather(embedder: Embedder, slices: list[Slice], image_size: int) -> Tensor:
    """All valid patches of slices, without those that a mask touches."""
    rows = []
    for part in slices:
        tokens, valid, size = embed(embedder, part, image_size)
        if part.mask is not None and part.mask.any():
            touched = F.adaptive_max_pool2d(
                F.interpolate(part.mask.float(), scale_factor=embedder.patch_size / size), tuple(valid.shape)
            )
            valid = valid & (touched[0, 0] == 0)
        rows.append(tokens[valid])
    return torch.cat(rows)


def make_scorers(patches: Tensor, options: argparse.Namespace) -> dict[str, Score]:
    """Fit the mixture and take memory banks of three sizes."""
    generator = torch.Generator().manual_seed(0)
    patches = patches[torch.randperm(len(patches), generator=generator)[: options.num_patches]]
    mixture = DirichletProcessMixture(options.components, patches.shape[1])
    mixture.fit(patches.split(4096), max_epochs=options.epochs)
    scorers: dict[str, Score] = {
        f"mixture {options.components} cosine": mixture.cosine_distance,
        f"mixture {options.components} log density": lambda x: -mixture.log_prob(x),
    }
    if options.quick:
        return scorers
    banks = {f"bank {len(bank)}": bank for bank in (patches[: options.components], patches[: options.bank])}
    return scorers | {name: lambda x, bank=bank: nearest_cosine_distance(x, bank) for name, bank in banks.items()}


def evaluate(embedder: Embedder, fit: list[Slice], tests: list[Slice], options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one embedder on one data set, per scorer; where there are masks, with intensity beside it too."""
    scorers = make_scorers(gather(embedder, fit, options.image_size), options)
    embedded = [embed(embedder, part, options.image_size) for part in tests]
    figures: dict[str, Any] = {}
    for name, score in scorers.items():
        if tests[0].mask is None:
            figures[name] = compute_image_figures(score, tests, embedded)
            continue
        maps = [draw_map(score, *pair) for pair in zip(tests, embedded, strict=True)]
        figures[name] = compute_pixel_figures(maps, tests)
        if name.startswith("mixture") and not options.quick:
            shown = fit[:: max(1, len(fit) // TAIL_SLICES)]
            healthy = [draw_map(score, part, embed(embedder, part, options.image_size)) for part in shown]
            for kind in ("bright", "both"):
                tail = fit_tail(kind, healthy, shown)
                added = [tail(drawn, part.image) for drawn, part in zip(maps, tests, strict=True)]
                figures[f"{name} + {kind}"] = compute_pixel_figures(added, tests)
    return figures


def draw_map(score: Score, part: Slice, embedded: tuple[Tensor, Tensor, float]) -> Tensor:
    """Score the patches of a slice and bring them to its pixels: ``(1, 1, H, W)``."""
    tokens, valid, size = embedded
    grid = score(tokens.flatten(0, 1)).view(valid.shape).float()
    shape = (part.image.shape[-2], part.image.shape[-1])
    return upsample_scores(grid[None], valid[None], shape, patch_size=size)


def fit_tail(kind: str, maps: list[Tensor], slices: list[Slice]) -> IntensityTail:
    """Fit the intensity tail on fitted slices, without what a mask marks."""
    tail = IntensityTail(kind)
    smooth = [tail.smooth(part.image) for part in slices]
    healthy = [
        (image > 0) & (torch.ones_like(image) > 0 if part.mask is None else ~part.mask)
        for image, part in zip(smooth, slices, strict=True)
    ]
    picked = [torch.cat([a[b] for a, b in zip(arrays, healthy, strict=True)]) for arrays in (maps, smooth)]
    tail.fit(*picked)
    return tail


def compute_pixel_figures(maps: list[Tensor], tests: list[Slice]) -> dict[str, float]:
    """Figures inside the head; maps need not be positive."""
    least = min(float(drawn[part.image > 0].min()) for drawn, part in zip(maps, tests, strict=True))
    metrics = AnomalyMetrics(froc=False)
    for part, drawn in zip(tests, maps, strict=True):
        inside = part.image[0, 0] > 0
        metrics.update(part.name, (drawn - least).clamp(min=0)[0, 0] * inside, part.mask[0, 0], inside)
    found = metrics.compute(bootstrap=0)
    return {key: round(found[f"{key}_foreground"], 3) for key in PIXEL_FIGURES if f"{key}_foreground" in found}


def compute_image_figures(
    score: Score, tests: list[Slice], embedded: list[tuple[Tensor, Tensor, float]]
) -> dict[str, float]:
    """AUROC of the slices' scores, and how well tumour types are found again."""
    grids = [score(tokens.flatten(0, 1)).view(valid.shape).float() for tokens, valid, _ in embedded]
    classes = np.array([part.abnormal for part in tests])
    figures = {}
    for method in ("mean", "top1pct"):
        scores = [
            float(pool_image_score(grid[None], valid[None], method))
            for grid, (_, valid, _) in zip(grids, embedded, strict=True)
        ]
        figures[f"image_auroc {method}"] = round(float(roc_auc_score(classes, scores)), 3)
    types = [part.kind for part in tests]
    chosen = [i for i in range(len(tests)) if classes[i] and types[i]]
    if len({types[i] for i in chosen}) > 1:
        bags = []
        for i in chosen:
            tokens, valid, _ = embedded[i]
            values = grids[i][valid]
            bags.append((torch.softmax(values / values.std().clamp(min=1e-6), 0) @ tokens[valid]).numpy())
        labels = AgglomerativeClustering(3, linkage="ward").fit_predict(np.stack(bags))
        figures["types NMI"] = round(float(normalized_mutual_info_score([types[i] for i in chosen], labels)), 3)
    return figures


def evaluate_intensity(tests: list[Slice], bright: bool) -> dict[str, Any]:
    """Pixel figures of the intensity itself, as it is and smoothed as the tail smooths it, or of its distance from the
    median."""
    if not bright:
        return {"distance from the median": compute_pixel_figures([(t.image - 1 / 3).abs() for t in tests], tests)}
    smooth = IntensityTail("bright").smooth
    return {
        "intensity": compute_pixel_figures([part.image for part in tests], tests),
        "intensity, smoothed": compute_pixel_figures([smooth(part.image) for part in tests], tests),
    }


# ------------------------------------------------------------------------------------------------------------ embedders


def make_embedders(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[list[Slice]], Embedder]]:
    """What is compared, made when its turn comes."""
    embedders: dict[str, Callable[[list[Slice]], Embedder]] = {"compact": lambda _: create_embedder()}
    if options.seed_weights is not None:
        embedders["seed (saw test)"] = lambda _: create_embedder(options.seed_weights)
    for path in options.embedder:
        embedders[path] = lambda _, path=path: create_embedder(path)

    def make_random(_: list[Slice]) -> Embedder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            export_backbone(build_backbone(128, 4, 2, 8, 4, 224), folder)
        return create_embedder(folder)

    return embedders | {"random ViT": make_random, "raw patches PCA": RawPatches}


def main() -> None:
    """Run what is missing and print the table."""
    options = _parse()
    warnings.filterwarnings("ignore")
    quiet_warnings()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    settings = {
        k: getattr(options, k) for k in ("split", "image_size", "components", "num_fit", "num_test", "num_patches")
    }
    with tempfile.TemporaryDirectory() as folder:
        for data_set in options.data_sets:
            for line in _run_data_set(data_set, options, Path(folder), settings, done):
                done.append(line)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                _print(line)
    print(json.dumps(done))


def _run_data_set(
    data_set: str, options: argparse.Namespace, folder: Path, settings: dict[str, Any], done: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Evaluate the embedders that have no line yet."""
    fit, tests = DATA_SETS[data_set](options)
    makers = make_embedders(options, folder)
    names = [*makers, *(["plain intensity"] if tests[0].mask is not None else [])]
    names = [name for name in names if options.only is None or name in options.only]
    for name in names:
        key = {"embedder": name, "data_set": data_set, **settings}
        if any(key.items() <= line.items() for line in done):
            continue
        start = time.perf_counter()
        if name in makers:
            figures = evaluate(makers[name](fit), fit, tests, options)
        else:
            figures = evaluate_intensity(tests, data_set == "ms_patient19")
        seconds = round(time.perf_counter() - start, 1)
        yield {**key, "slices": [len(fit), len(tests)], "figures": figures, "seconds": seconds}


def _print(line: dict[str, Any]) -> None:
    for scorer, figures in line["figures"].items():
        text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"{line['data_set']:13} {line['embedder']:26} {scorer:26} {text}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of brain_mri_2d and ms_mri_3d")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.jsonl and the cohort")
    parser.add_argument("--seed-weights", type=Path, help="folder of weights that saw valid and test")
    parser.add_argument("--embedder", nargs="*", default=[], help="further local folders: DINOv2, DINOv3, any ViT")
    parser.add_argument("--only", nargs="+", help="names of the embedders to evaluate now; the others may follow later")
    parser.add_argument("--data-sets", nargs="+", default=list(DATA_SETS), choices=list(DATA_SETS))
    parser.add_argument("--split", default="test", choices=("valid", "test"))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--components", type=int, default=256)
    parser.add_argument("--num-fit", type=int, default=300, help="tumour-free slices to fit")
    parser.add_argument("--num-test", type=int, default=100, help="slices of each class to score")
    parser.add_argument("--num-patches", type=int, default=40000, help="patches that the mixture is fitted to")
    parser.add_argument("--bank", type=int, default=20000, help="vectors of the larger memory bank")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--num-heads", type=int, default=8, help="ixi heads to score; twice as many are fitted")
    parser.add_argument("--quick", action="store_true", help="the mixture alone: no memory banks, no intensity tails")
    parser.add_argument("--every", type=int, default=3, help="take every n-th slice of patient 19")
    return parser.parse_args()


if __name__ == "__main__":
    main()
