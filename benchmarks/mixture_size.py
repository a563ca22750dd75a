# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Where a mixture is large, and where its data are few: what a start and moves cost beside a pass, and overfitting.

    python benchmarks/mixture_size.py [--threads 1] [--only large small]

Embeddings are drawn, as in `benchmarks/mixture.py`; times are CPU seconds of this process, by default on one thread, so
read them as ratios. Prints one table per section and one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json

import torch
from mixture import make_embeddings
from mixture_peers import measure, measure_faiss
from torch import Tensor

from monai_dpmm_ad.mixture import DirichletProcessMixture


def measure_large(results: dict) -> None:
    """The start, two passes and the moves after each, and the held-out value that they leave."""
    num_data, batch = 100_000, 8192
    print(f"\nlarge K, large D, N = {num_data}: CPU s of start, pass, moves, pass, moves; rows/s that FAISS assigns")
    columns = ["start", "pass", "moves", "pass", "moves", "active", "held-out", "assign /s"]
    print(f"{'':>10} {'D':>5} {'K':>5} " + " ".join(f"{column:>9}" for column in columns))
    for dim, num_components in ((384, 2000), (1536, 500)):
        x = make_embeddings(num_data + 2000, dim, 60)
        x, held_out = x[:num_data], x[num_data:]
        floor = measure_faiss(x, num_components)
        for covariance in ("diagonal", "rotated"):
            mixture = DirichletProcessMixture(num_components, dim, covariance)
            sample = x[: mixture.sample_size]
            steps = [measure(lambda m=mixture, s=sample: m.initialize(s, num_data), 1)]
            for _ in range(2):
                steps.append(measure(lambda m=mixture, x=x: [m.partial_fit(rows) for rows in x.split(batch)], 1))
                steps.append(measure(lambda m=mixture, s=sample: m.adapt(s), 1))
            value, active = float(mixture.log_prob(held_out).mean()), mixture.posterior.num_active
            row = {"seconds": steps, "active": active, "held_out": value, "faiss_per_second": floor}
            results[f"large_{covariance}_D{dim}_K{num_components}"] = row
            print(
                f"{covariance:>10} {dim:>5} {num_components:>5} {' '.join(f'{step:>9.2f}' for step in steps)} "
                f"{active:>9} {value:>9.2f} {'-' if floor is None else f'{floor:.0f}':>9}",
                flush=True,
            )


def make_independent(num_data: int, dim: int, num_clusters: int) -> Tensor:
    """Clusters whose dimensions are independent, of different spreads, (N, D): nothing to turn."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(num_clusters, dim, generator=generator)
    spread = 0.5 * torch.exp(0.5 * torch.randn(num_clusters, dim, generator=generator))
    labels = torch.randint(num_clusters, (num_data,), generator=generator)
    return centres[labels] + spread[labels] * torch.randn(num_data, dim, generator=generator)


def measure_small(results: dict) -> None:
    """Whether a few thousand rows in many dimensions are overfitted."""
    print("\na few thousand rows, D = 192, K = 50: log-likelihood of the rows that were fitted, of 2 500 others")
    for name, x in {"low rank": make_embeddings(7500, 192, 60), "independent": make_independent(7500, 192, 20)}.items():
        for num_data, covariance in itertools.product((2000, 5000), ("diagonal", "rotated", "full")):
            mixture = DirichletProcessMixture(50, 192, covariance).fit(x[:num_data].split(1000), max_epochs=3)
            values = [float(mixture.log_prob(rows).mean()) for rows in (x[:num_data], x[5000:])]
            results[f"small_{name}_{covariance}_N{num_data}"] = values
            print(f"{name:>12} {num_data:>5} {covariance:>10} {values[0]:>9.2f} {values[1]:>9.2f}", flush=True)


SECTIONS = {"large": measure_large, "small": measure_small}


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict = {}
    for section in arguments.only:
        SECTIONS[section](results)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
