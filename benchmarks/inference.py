# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What inference costs beside the bare forward passes of its slices, and beside the paper's pipeline in float32.

    OMP_NUM_THREADS=1 python benchmarks/inference.py --out runs/inference [--volumes 2] [--scans FILE…]

Brain phantoms of 1 mm voxels, or the scans that are named, are mapped by the command line's own way,
``commands.infer``: read, preprocess, network, inversion, thresholds, regions, files. Beside it, in turns: the bare
bfloat16 passes of all axial slices with foreground (a map judged by place looks at some slices of three planes), and
(with ViT-S/14) a plain pipeline as the paper describes it: every axial slice, background too, resized to 448×448, a
float32 pass of transformers, 1 − largest cosine to a component, bilinear upsampling, one file. Its time is of every
``--stride``-th slice, scaled. The ViT-S/14 has random weights in DINOv2's shape: speed does not depend on their values.
Prints a table and a JSON line: medians over the repeats of CPU and wall seconds and of their ratios, the steps' share
of the CPU seconds, and how far scores of bfloat16 and float32 embeddings differ. "network's thread" is the ratio that
the wall clock shows where another core is free for the rest: reading, preprocessing, inversion, thresholds, regions and
files overlap with it.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import shutil
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Invertd
from plain_pipeline import BATCH, PlainPipeline, Seconds, stopwatch
from torch import Tensor

from monai_dpmm_ad import commands
from monai_dpmm_ad.bundle import is_fitted, load_workflow
from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.detectors import DPMMDetector
from monai_dpmm_ad.embedding.hf_vit import HFViTEmbedder
from monai_dpmm_ad.handlers import ScanTable
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network import anomaly_net as network_module
from monai_dpmm_ad.network.inferer import VolumeInferer, iterate_slices
from monai_dpmm_ad.ops.slices import extract_slices
from monai_dpmm_ad.pretraining.checkpoints import export_backbone
from monai_dpmm_ad.pretraining.model import build_backbone
from monai_dpmm_ad.transforms import LoadScand, SaveScand, preprocess_scan
from monai_dpmm_ad.transforms.score import ScoreScand
from monai_dpmm_ad.utils.memory import keep_heap
from monai_dpmm_ad.utils.progress import quiet_warnings

#: The steps of the network's thread; what the others take, another core can do meanwhile.
OWN_THREAD = ("slices out and in", "resize, normalise", "forward passes", "scoring", "drift", "upsampling")
#: What is timed: where it is called, and the step that its own time (without that of the steps inside) counts for.
STEPS: tuple[tuple[Any, str, str], ...] = (
    (LoadScand, "__call__", "read"),
    (ScanDataset, "__getitem__", "preprocess"),
    (VolumeInferer, "__call__", "slices out and in"),
    (AnomalyNet, "encode", "resize, normalise"),
    (HFViTEmbedder, "_tokens", "forward passes"),
    (DPMMDetector, "score_slices", "scoring"),
    (AnomalyNet, "_summarise", "drift"),
    (network_module, "refine_scores", "upsampling"),
    (Invertd, "__call__", "inversion"),
    (ScoreScand, "__call__", "thresholds, percentiles"),
    (ScanTable, "_update", "regions, tables"),
    (SaveScand, "__call__", "files"),
)


def main() -> None:
    """Prepare the data, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/inference"), help="data and bundles are kept here")
    parser.add_argument("--volumes", type=int, default=2)
    parser.add_argument("--scans", type=Path, nargs="+", help="NIfTI files to map in place of the phantoms")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stride", type=int, default=4, help="the plain pipeline runs on every so many slices")
    parser.add_argument("--default-malloc", action="store_true", help="as in a process that is not the command line's")
    parser.add_argument("--models", nargs="+", default=["ViT-S/14", "compact"], choices=["ViT-S/14", "compact"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.default_malloc:
        keep_heap()  # as the command line does
    quiet_warnings()
    logging.disable(logging.INFO)
    scans = prepare_scans(options.out, 0 if options.scans else options.volumes) + (options.scans or [])
    result: dict[str, Any] = {"threads": options.threads, "volumes": len(scans)}
    for name in options.models:
        result[name] = measure(name, options, scans)
        print_rows(name, result[name])
    print(json.dumps(result))


def prepare_scans(out: Path, count: int) -> list[Path]:
    """Write the healthy scans to fit, in small, and those to map, whole heads' brains of 1 mm."""
    write_cohort(out / "fit", num_train=3, num_valid=1, num_test_healthy=0, num_test_abnormal=0, size="small")
    if len(list((out / "scans" / "imagesTs").glob("*.nii.gz"))) < count:
        half = count // 2
        sizes = {"num_test_healthy": count - half, "num_test_abnormal": half}
        write_cohort(out / "scans", num_train=0, num_valid=0, spacing=1.0, **sizes)
    return sorted((out / "scans" / "imagesTs").glob("*.nii.gz"))[:count]


def prepare_bundle(name: str, out: Path) -> Path:
    """Fit a bundle of the backbone, unless that has been done."""
    bundle, settings = out / f"bundle-{name.replace('/', '-')}", {}
    if name != "compact":
        folder = out / "vit-s"
        if not folder.exists():
            torch.manual_seed(0)
            export_backbone(build_backbone(384, 12, 6, 14, 4, 518), folder)
        settings = {"embedder_name": str(folder.absolute()), "image_size": 448}
    if not is_fitted(bundle):
        commands.fit([out / "fit" / "datalist.json"], bundle, max_epochs=3, **settings)
    return bundle


def measure(name: str, options: argparse.Namespace, scans: list[Path]) -> dict[str, Any]:
    """Run everything in turns for one backbone."""
    bundle = prepare_bundle(name, options.out)
    with load_workflow(bundle, ["inference"], "inference", device="cpu") as workflow:
        network, settings = workflow.network, workflow.settings
    volumes = [preprocess_scan()({"image": str(scan), "name": "scan"})["image"] for scan in scans]
    batches = [batch for volume in volumes for batch in take_batches(network, volume)]
    seen = sum(count_seen(settings, volume) for volume in volumes)
    run_bare(network.embedder, batches[:1])
    plain = PlainPipeline(network) if name != "compact" else None
    runs: dict[str, list[Seconds]] = defaultdict(list)
    steps: list[Seconds] = []
    critical: list[float] = []
    for _ in range(options.repeats):
        if plain:
            parts = [plain.time(scan, options.out / "plain.nii.gz", options.stride) for scan in scans]
            runs["plain"].append({unit: sum(seconds[unit] for seconds in parts) for unit in parts[0]})
        with stopwatch() as bare:
            run_bare(network.embedder, batches)
        with watch_steps() as shares, stopwatch() as whole:
            infer(bundle, scans, options.out / "results")
        runs["bare"].append(bare)
        runs["inference"].append(whole)
        steps.append({step: seconds / whole["cpu"] for step, seconds in shares.items()})
        critical.append(sum(shares[step] for step in OWN_THREAD) / bare["cpu"])
        last = {key: {unit: round(seconds, 2) for unit, seconds in found[-1].items()} for key, found in runs.items()}
        print(f"{name}: {last}", file=sys.stderr, flush=True)
    processed = sum(len(batch) for batch in batches)
    rows = {"slices": sum(nib.load(scan).shape[_axial(scan)] for scan in scans), "processed": processed, "seen": seen}
    rows |= {key: {unit: _median(run[unit] for run in found) for unit in found[0]} for key, found in runs.items()}
    rows["ratio"] = {**_ratio(runs["inference"], runs["bare"]), "network's thread": _median(critical)}
    rows["shares"] = {step: _median(share[step] for share in steps) for step in steps[0]}
    rows["shares"]["start, everything else"] = 1 - sum(rows["shares"].values())
    if plain:
        rows["faster"] = _ratio(runs["plain"], runs["inference"])
        rows |= compare_scores(network, plain, batches[:: max(1, len(batches) // 4)])
    return rows


def infer(bundle: Path, scans: list[Path], results: Path) -> None:
    """Map the scans as the command line does."""
    shutil.rmtree(results, ignore_errors=True)  # else they would be taken as finished
    outcome = commands.infer(bundle, scans, results, report=False, batch_size=BATCH)
    if outcome.failures or len(outcome.scans) != len(scans):
        raise RuntimeError(f"not all scans were mapped: {outcome.failures}")


def count_seen(settings: dict[str, Any], volume: MetaTensor) -> int:
    """How many slices of a volume the network is shown, of all planes."""
    numbers = []

    def note(images: Tensor, positions: Tensor, **_: float) -> Tensor:
        numbers.append(len(images))
        return images

    VolumeInferer(settings["axes"], BATCH, 1, settings["slice_spacing"])(volume[None], note)
    return sum(numbers)


def take_batches(network: AnomalyNet, volume: MetaTensor) -> list[Tensor]:
    """The axial slices of a volume as the embedder gets them, in the batches of `infer`."""
    slices = extract_slices(volume.as_tensor(), "axial")
    size = network.resized_shape(*slices.shape[-2:])
    batches = [images for _, images, _ in iterate_slices(slices, BATCH, 1)]
    return [F.interpolate(images, size, mode="bilinear", antialias=True) for images in batches]


@torch.no_grad()
def run_bare(embedder: HFViTEmbedder, batches: list[Tensor]) -> None:
    """Nothing but the backbone, in the embedder's precision and with its attention."""
    for images in batches:
        pixels = _pad(images, embedder.patch_size).expand(-1, 3, -1, -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=embedder.precision == "bfloat16"):
            embedder.backbone(pixel_values=pixels, interpolate_pos_encoding=True)


def _pad(images: Tensor, patch_size: int) -> Tensor:
    return F.pad(images, (0, -images.shape[-1] % patch_size, 0, -images.shape[-2] % patch_size))


@torch.no_grad()
def compare_scores(network: AnomalyNet, plain: PlainPipeline, batches: list[Tensor]) -> dict[str, Any]:
    """Of the same slices: float32's time over that of our maps, batch by batch, and how far scores differ."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    passes: dict[str, list[Seconds]] = defaultdict(list)
    for images in batches:
        with stopwatch() as theirs_spent:
            plain.score(plain.embed(_pad(images, network.embedder.patch_size)))
        with stopwatch() as ours_spent:
            network(images)
        passes["theirs"].append(theirs_spent)
        passes["ours"].append(ours_spent)
        encoded = network.encode(images)
        valid = network.choose_patches(encoded)
        ours = F.normalize(encoded.embeddings.patches[:, 0], dim=-1)[valid]
        theirs = plain.embed(_pad(images, network.embedder.patch_size))[valid]
        found["cosine"].append(torch.stack([network.detector.mixture.cosine_distance(ours), plain.score(theirs)]))
        found["log_density"].append(torch.stack([network.detector.score(rows) for rows in (ours, theirs)]))
    differences = {name: _difference(torch.cat(scores, 1)) for name, scores in found.items()}
    return {"same slices": _ratio(passes["theirs"], passes["ours"]), **differences}


def _difference(scores: Tensor) -> dict[str, float]:
    difference = (scores[0] - scores[1]).abs()
    spread = {"largest_score": float(scores[1].max()), "correlation": float(torch.corrcoef(scores)[0, 1])}
    return {"largest": float(difference.max()), "mean": float(difference.mean()), **spread}


@contextmanager
def watch_steps() -> Iterator[Seconds]:
    """CPU seconds of each step in the thread that runs it, without those of the steps inside."""
    spent: Seconds = dict.fromkeys((step for _, _, step in STEPS), 0.0)
    inside: dict[int, list[float]] = defaultdict(list)

    def timed(function: Callable[..., Any], step: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            stack = inside[threading.get_ident()]
            stack.append(0.0)
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.thread_time() - start
                spent[step] += whole - stack.pop()
                if stack:
                    stack[-1] += whole

        return run

    patches = [mock.patch.object(owner, name, timed(getattr(owner, name), step)) for owner, name, step in STEPS]
    for patch in patches:
        patch.start()
    try:
        yield spent
    finally:
        for patch in patches:
            patch.stop()


def _ratio(first: list[Seconds], second: list[Seconds]) -> Seconds:
    return {unit: _median(a[unit] / b[unit] for a, b in zip(first, second, strict=True)) for unit in ("wall", "cpu")}


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def _axial(scan: Path) -> int:
    """Dimension of the file along which axial slices are counted."""
    return int(np.argmax([code in "SI" for code in nib.aff2axcodes(nib.load(scan).affine)]))


def print_rows(name: str, rows: dict[str, Any]) -> None:
    """Print the table of one backbone."""
    slices, processed = rows["slices"], rows["processed"]
    print(f"\n{name}: {slices} axial slices, {processed} with foreground, {rows['seen']} looked at")
    for key, count in (("bare", processed), ("inference", slices), ("plain", slices)):
        if key in rows:
            cpu, wall = rows[key]["cpu"], rows[key]["wall"]
            rate = f"{count / cpu:6.2f} slices a CPU second"
            print(f"  {key:12s} CPU {cpu:8.2f} s  wall {wall:8.2f} s  {rate}")
    ratios = ", ".join(f"{unit} {ratio:.3f}" for unit, ratio in rows["ratio"].items())
    print(f"  inference / bare   {ratios}")
    if "faster" in rows:
        print("  plain / inference  CPU {cpu:.2f}  wall {wall:.2f}".format(**rows["faster"]))
        print("  the same slices    CPU {cpu:.2f}  wall {wall:.2f}".format(**rows["same slices"]))
        for key in ("cosine", "log_density"):
            print(f"  {key}: bfloat16 against float32, " + ", ".join(f"{k} {v:.2g}" for k, v in rows[key].items()))
    for step, share in rows["shares"].items():
        print(f"  {step:26s} {100 * share:6.2f} %")


if __name__ == "__main__":
    main()
