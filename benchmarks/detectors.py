# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""All detectors on the same stored embeddings of the same slices: quality, cost, and how cost grows.

    python benchmarks/detectors.py --data ../shared/data/brain_mri_2d --out runs/detectors [--image-size 144]

Fitted on slices of ``train/good``; growth beyond their number takes turned copies (--rotations). Tested on slices of
``test/good``: half of them as they are, in the other half a synthetic lesion is inserted, so that both classes come
from one source and there are masks. Times are CPU seconds of one thread, without the embedding: read them as ratios.
``bytes`` is the state dict. Prints tables and a JSON line, and draws ``growth.png`` into --out.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.data.synthetic_lesions import insert_lesion_2d
from monai_dpmm_ad.detectors import Detector, create_detector
from monai_dpmm_ad.embedding import EmbeddingStore, create_embedder
from monai_dpmm_ad.embedding.types import EncodedSlices, PatchEmbeddings
from monai_dpmm_ad.engines.embed import embed_dataset
from monai_dpmm_ad.metrics import AnomalyMetrics
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.upsampling import upsample_scores
from monai_dpmm_ad.ops.pooling import pool_image_score
from monai_dpmm_ad.transforms import preprocess_scan, preprocess_slices

#: name in the tables → detector, options
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixture": ("dpmm", {"num_components": 256}),
    "memory bank, full": ("memory_bank", {"max_rows": 10_000_000}),
    "memory bank, coreset 1 %": ("memory_bank", {"max_rows": 10_000_000, "fraction": 0.01}),
    "himatch": ("himatch", {}),
    "dino-ad (K=1, one stage)": ("himatch", {"num_support": 1, "stages": [3]}),
    "ogae": ("ogae", {}),
}
#: what each part of himatch adds: one switch each
ABLATION: dict[str, dict[str, Any]] = {
    "himatch": {},
    "no retrieval (K fixed references)": {"retrieve": False},
    "global retrieval only (CLS)": {"local_weight": 0.0},
    "local retrieval only (patches)": {"local_weight": 1.0},
    "no clustering (all support patches)": {"num_clusters": 0},
    "last stage only": {"stages": [3]},
    "first stage only": {"stages": [0]},
    "mean instead of uncertainty": {"fusion": "mean"},
    "no standardisation": {"standardize": False},
    "K = 1": {"num_support": 1},
    "K = 8": {"num_support": 8},
}
BACKGROUND = "background patches kept among the references"
FIGURES = ("image_auroc", "pixel_auroc_foreground", "pixel_aupr_foreground", "best_dice_foreground")
TABLES = ["quality", "ablation", "growth"]
BATCH = 4096


@dataclass
class TestImage:
    """One encoded test slice, with what the metrics need."""

    encoded: EncodedSlices
    valid: Tensor
    foreground: np.ndarray
    mask: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/brain_mri_2d"))
    parser.add_argument("--out", type=Path, default=Path("runs/detectors"))
    parser.add_argument("--image-size", type=int, default=144)
    parser.add_argument("--normals", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--quality-at", type=int, default=1000, help="normal images of the quality and ablation tables")
    parser.add_argument("--rotations", type=float, nargs="+", default=[0, 8, -8], help="beyond the number of slices")
    parser.add_argument("--tests", type=int, default=40, help="test slices, half of them with a lesion")
    parser.add_argument("--timed", type=int, default=8, help="test slices on which scoring is timed in the growth")
    parser.add_argument("--epochs", type=int, default=1, help="passes of the detectors that can take several")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module=r"monai\.")
    torch.set_num_threads(1)
    embedder = create_embedder("compact", stages="quarters")
    network = AnomalyNet(embedder, create_detector("dpmm", embedder.embed_dim), image_size=arguments.image_size)
    stores = embed_normals(network, arguments)
    tests = encode_tests(network, arguments)
    found: dict[str, Any] = {}
    if "quality" in arguments.tables:
        found["quality"] = run_quality(stores, tests, arguments)
    if "ablation" in arguments.tables:
        found["ablation"] = run_ablation(stores, tests, network, arguments)
    if "growth" in arguments.tables:
        found["growth"] = run_growth(stores, tests, arguments)
        draw_growth(found["growth"], arguments.out / "growth.png")
    print(json.dumps(found))


# Data ----------------------------------------------------------------------------------------------------------------


def embed_normals(network: AnomalyNet, arguments: argparse.Namespace) -> list[EmbeddingStore]:
    """One store for each angle: of the first only is needed for small numbers."""
    items = resolve_datalist(arguments.data, section="training")
    order = np.random.default_rng(arguments.seed).permutation(len(items))
    items = [dict(items[i]) for i in order]
    stores = []
    for number, angle in enumerate(arguments.rotations):
        if number * len(items) >= max(arguments.normals):
            break
        part = items[: max(arguments.normals) - number * len(items)]
        folder = arguments.out / f"store-{arguments.image_size}-{angle:g}-{len(part)}"
        dataset = ScanDataset(part, preprocess_slices())
        options = {"patch_fraction": 0.25, "rotations": [angle], "seed": arguments.seed}
        stores.append(embed_dataset(dataset, network, folder, {"benchmark": "detectors"}, **options))
    return stores


@torch.no_grad()
def encode_tests(network: AnomalyNet, arguments: argparse.Namespace) -> list[TestImage]:
    """Encode slices of ``test/good``, every other one with a lesion inserted."""
    items = [item for item in resolve_datalist(arguments.data, section="test") if not item["abnormal"]]
    rng = np.random.default_rng(arguments.seed)
    chain, tests = preprocess_scan(), []
    for number, item in enumerate(items[: arguments.tests]):
        image = np.asarray(chain(dict(item))["image"])[0]
        mask = np.zeros(image.shape, bool)
        if number % 2:
            image, mask = insert_lesion_2d(image, image > 0, rng)
        tensor = torch.from_numpy(np.clip(image, 0, 1).astype(np.float32))[None, None]
        encoded = network.encode(tensor)
        tests.append(TestImage(encoded, encoded.foreground >= network.min_foreground, image > 0, mask))
    return tests


# Fit and score -------------------------------------------------------------------------------------------------------


class Rows:
    """The first images of several stores, in the units that detectors are fitted on."""

    def __init__(self, stores: Sequence[EmbeddingStore], images: int, last_stage: bool, seed: int) -> None:
        named = [(store, name) for store in stores for name in store.sources]
        if images > len(named):
            raise ValueError(f"`--normals` must not exceed {len(named)} embedded slices, got {images}. Add rotations.")
        self.named, self.last_stage, self.seed = named[:images], last_stage, seed
        self.num_rows = sum(store.count_rows(name) for store, name in self.named)

    def scans(self) -> Any:
        """One slice after the other."""
        for store, name in self.named:
            rows = store.source_rows(name)
            yield {**rows, "patches": rows["patches"][:, -1:], "cls": rows["cls"][:, -1:]} if self.last_stage else rows

    def shuffled(self) -> dict[str, Tensor]:
        """All rows in random order, in memory."""
        parts = list(self.scans())
        order = torch.randperm(self.num_rows, generator=torch.Generator().manual_seed(self.seed))
        return {key: torch.cat([part[key] for part in parts])[order] for key in ("patches", "location")}


def fit(
    system: str, stores: Sequence[EmbeddingStore], images: int, seed: int, epochs: int = 1, **extra: Any
) -> tuple[Detector, float]:
    """Fit one system; the CPU seconds leave out reading the store."""
    name, options = SYSTEMS[system]
    hierarchical = name == "himatch"
    rows = Rows(stores, images, not hierarchical, seed)
    stages = stores[0].num_stages if hierarchical else 1
    detector = create_detector(name, stores[0].embed_dim, stages, options={**options, **extra}, seed=seed)
    if hierarchical:
        batches = list(rows.scans())
        everything: dict[str, Tensor] = {}
    else:
        everything = rows.shuffled()
        starts = range(0, rows.num_rows, BATCH)
        batches = [{key: value[start : start + BATCH] for key, value in everything.items()} for start in starts]
    sample = {key: value[:50_000] for key, value in everything.items()}
    start = time.process_time()
    detector.initialize(sample, rows.num_rows)
    for _ in range(detector.max_epochs or epochs):
        for batch in batches:
            detector.fit_batch(batch, rows.num_rows)
        detector.finish_epoch(lambda: sample)
    return detector.eval(), time.process_time() - start


@torch.no_grad()
def score(detector: Detector, tests: Sequence[TestImage]) -> tuple[list[Tensor], float]:
    """Grids of all test images and CPU milliseconds for each; the first call, which builds an index, is not timed."""
    views = [_view(test.encoded, detector.num_stages) for test in tests]
    detector.score_slices(views[0], tests[0].valid)
    start = time.process_time()
    grids = [detector.score_slices(view, test.valid) for view, test in zip(views, tests, strict=True)]
    return grids, 1000 * (time.process_time() - start) / len(tests)


def _view(encoded: EncodedSlices, num_stages: int) -> EncodedSlices:
    """The last stages of an encoded slice."""
    embeddings = PatchEmbeddings(encoded.embeddings.patches[:, -num_stages:], encoded.embeddings.cls[:, -num_stages:])
    return EncodedSlices(embeddings, encoded.location, encoded.foreground)


def judge(grids: Sequence[Tensor], tests: Sequence[TestImage]) -> dict[str, float]:
    """Image and pixel figures of the upsampled grids."""
    metrics = AnomalyMetrics(froc=False)
    for number, (grid, test) in enumerate(zip(grids, tests, strict=True)):
        anomaly = upsample_scores(grid, test.valid, test.foreground.shape)[0, 0] * torch.from_numpy(test.foreground)
        image_score = float(pool_image_score(anomaly[None], torch.from_numpy(test.foreground)[None])[0])
        metrics.update(
            f"{number:04d}",
            score_map=anomaly.numpy(),
            mask=test.mask,
            foreground=test.foreground,
            image_score=image_score,
            abnormal=int(test.mask.any()),
        )
    figures = metrics.compute(bootstrap=0)
    return {key: figures[key] for key in FIGURES}


def count_bytes(detector: Detector) -> int:
    """Bytes of the tensors that a bundle keeps."""
    return sum(value.numel() * value.element_size() for value in detector.state_dict().values())


# Tables --------------------------------------------------------------------------------------------------------------


def run_quality(stores: Any, tests: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every system at one number of normal images."""
    table = {}
    for system in SYSTEMS:
        detector, seconds = fit(system, stores, arguments.quality_at, arguments.seed, arguments.epochs)
        grids, milliseconds = score(detector, tests)
        table[system] = {
            **judge(grids, tests),
            "fit_s": seconds,
            "score_ms": milliseconds,
            "bytes": count_bytes(detector),
        }
        show(system, table[system])
    return table


def run_ablation(stores: Any, tests: Any, network: AnomalyNet, arguments: argparse.Namespace) -> dict[str, Any]:
    """Himatch with one part switched off at a time; references are the same."""
    table = {}
    for name, options in ABLATION.items():
        detector, _ = fit("himatch", stores, arguments.quality_at, arguments.seed, **options)
        grids, milliseconds = score(detector, tests)
        table[name] = {**judge(grids, tests), "score_ms": milliseconds}
        show(name, table[name])
    detector, _ = fit("himatch", stores, arguments.quality_at, arguments.seed)
    _add_background(detector, network, arguments)
    grids, milliseconds = score(detector, tests)
    table[BACKGROUND] = {**judge(grids, tests), "score_ms": milliseconds}
    show(BACKGROUND, table[BACKGROUND])
    return table


@torch.no_grad()
def _add_background(detector: Any, network: AnomalyNet, arguments: argparse.Namespace) -> None:
    """Give every reference the patches of an empty image in the proportion in which a slice has background."""
    side = arguments.image_size
    patches = network.encode(torch.zeros(1, 1, side, side)).rows()["patches"][0].flatten(0, 1)
    patches = (patches / patches.norm(dim=-1, keepdim=True)).half()
    share = patches[:: max(1, len(patches) // 64)]
    parts = detector.reference_patches.split(detector.reference_counts.tolist())
    detector.reference_patches = torch.cat([torch.cat([part, share]) for part in parts])
    detector.reference_counts = detector.reference_counts + len(share)


def run_growth(stores: Any, tests: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Cost of every system at growing numbers of normal images."""
    table: dict[str, Any] = {}
    for system in SYSTEMS:
        for images in arguments.normals:
            detector, seconds = fit(system, stores, images, arguments.seed, arguments.epochs)
            _, milliseconds = score(detector, tests[: arguments.timed])
            row = {"fit_s": seconds, "score_ms": milliseconds, "bytes": count_bytes(detector)}
            table.setdefault(system, {})[images] = row
            show(f"{system}, {images} images", row)
    return table


def show(name: str, row: dict[str, float]) -> None:
    """Print one line of a table."""
    print(f"{name:48s}" + "  ".join(f"{key} {value:10.3f}" for key, value in row.items()), flush=True)


def draw_growth(growth: dict[str, Any], path: Path) -> None:
    """Draw fit time, scoring time and size against the number of normal images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = {"fit_s": (1, "fit, CPU s"), "score_ms": (1, "scoring, CPU ms per image"), "bytes": (1e-6, "model, MB")}
    for axis, (key, (factor, title)) in zip(axes, titles.items(), strict=True):
        for system, rows in growth.items():
            axis.plot(list(rows), [factor * row[key] for row in rows.values()], marker="o", label=system)
        axis.set(xscale="log", yscale="log", title=title, xlabel="normal images")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
