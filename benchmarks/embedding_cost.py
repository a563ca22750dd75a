# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What embedding one slice costs: ``compact``, a ViT-Ti/14 and a ViT-S/14, alternating in one run.

    OMP_NUM_THREADS=2 python benchmarks/embedding_cost.py [--image-size 224] [--repeats 20]

The ViTs have random weights: only their shape costs time. Prints CPU and wall milliseconds a slice (median and least)
in batches of 8, and each median's share of ViT-S/14, as a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from monai_dpmm_ad.embedding import create_embedder
from monai_dpmm_ad.embedding.base import Embedder
from monai_dpmm_ad.pretraining.checkpoints import export_backbone
from monai_dpmm_ad.pretraining.model import build_backbone
from monai_dpmm_ad.utils.progress import quiet_warnings

SHAPES = {"ViT-Ti/14": (192, 12, 3, 14, 4, 224), "ViT-S/14": (384, 12, 6, 14, 4, 224)}
BATCH = 8


def main() -> None:
    """Time the embedders in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    quiet_warnings()
    with tempfile.TemporaryDirectory() as folder:
        embedders = {"compact": create_embedder()}
        for name, shape in SHAPES.items():
            path = Path(folder) / name.replace("/", "-")
            export_backbone(build_backbone(*shape), path)
            embedders[name] = create_embedder(path)
        times = measure(embedders, options.image_size, options.repeats)
    slowest = statistics.median(wall for wall, _ in times["ViT-S/14"])
    rows = {}
    for name, pairs in times.items():
        walls, cpus = zip(*pairs, strict=True)
        rows[name] = {
            "wall_ms": round(statistics.median(walls), 2),
            "least_wall_ms": round(min(walls), 2),
            "cpu_ms": round(statistics.median(cpus), 2),
            "share": round(statistics.median(walls) / slowest, 3),
        }
        print(f"{name:10} " + "  ".join(f"{key} {value}" for key, value in rows[name].items()))
    print(json.dumps({"threads": torch.get_num_threads(), "image_size": options.image_size, "rows": rows}))


@torch.no_grad()
def measure(embedders: dict[str, Embedder], image_size: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU milliseconds a slice of each embedder, in turns, after one pass to warm up."""
    images = torch.rand(BATCH, 1, image_size, image_size, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in embedders}
    for repeat in range(repeats + 1):
        for name, embedder in embedders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            embedder.embed(images)
            if repeat:
                spent = (time.perf_counter() - wall, time.process_time() - cpu)
                times[name].append((1000 * spent[0] / BATCH, 1000 * spent[1] / BATCH))
    return times


if __name__ == "__main__":
    main()
