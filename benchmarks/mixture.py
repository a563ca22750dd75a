# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Measure the mixture: throughput, time to quality beside its peers, memory, scoring, adaptivity.

    python benchmarks/mixture.py [--data ../shared/data] [--embedder compact] [--threads 1] [--only SECTION …]

Times are CPU seconds of this process by default on one thread, so that a busy machine does not change the ratios. Real
embeddings are those of ``--num-slices`` random slices of ``brain_mri_2d/train/good`` in ``--data``, 224×224; the last
tenth of the slices is held out. Prints one table per section and one JSON line.

The oracle is the plain way to write the paper's inference (methods.md, section 1): every step makes N×K×D tensors. The
paper's batch, 12 images of 1 024 patches, would need 1.9 GB a tensor at K = 100, so its steps here are of 4 images at
K = 100 and of as many bytes otherwise.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mixture_peers import (
    BATCH,
    OnlineMAPEM,
    clock,
    follow_mixture,
    follow_oracle,
    follow_sklearn,
    measure,
    measure_faiss,
)
from torch import Tensor

from monai_dpmm_ad.mixture import DirichletProcessMixture


def make_embeddings(num_data: int, dim: int, num_clusters: int, seed: int = 0, rank: int = 8) -> Tensor:
    """Unit vectors in clusters of low rank with power-law weights, (N, D)."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_clusters, dim, generator=generator)
    loadings = torch.randn(num_clusters, dim, rank, generator=generator) / rank**0.5
    weights = 1.0 / torch.arange(1, num_clusters + 1, dtype=torch.float32)
    labels = torch.multinomial(weights, num_data, True, generator=generator)
    x = centres[labels] + 0.1 * torch.randn(num_data, dim, generator=generator)
    for k in range(num_clusters):
        rows = (labels == k).nonzero()[:, 0]
        x[rows] += torch.randn(len(rows), rank, generator=generator) @ loadings[k].T
    return torch.nn.functional.normalize(x, dim=1)


def embed_slices(data: Path, embedder_name: str, num_slices: int) -> tuple[Tensor, Tensor]:
    """Unit patch embeddings of real slices: 50 000 rows to fit, every fourth row of the last tenth of the slices."""
    from embedder_data import read_pictures
    from embedders import embed

    from monai_dpmm_ad.embedding import create_embedder

    embedder = create_embedder(embedder_name)
    slices = read_pictures(data / "brain_mri_2d" / "train" / "good" / "img", num_slices)
    slices = [slices[i] for i in torch.randperm(len(slices), generator=torch.Generator().manual_seed(0)).tolist()]
    rows = [tokens[valid] for tokens, valid, _ in (embed(embedder, part, 224) for part in slices)]
    split = int(0.9 * len(rows))
    train, test = torch.cat(rows[:split]), torch.cat(rows[split:])
    return train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:50_000]], test[::4]


def measure_beside(runs: list[Callable[[], object]], rounds: int = 5) -> list[float]:
    """The least CPU seconds of each, taking turns, so that other processes slow all of them alike."""
    seconds = [[measure(run, 1) for run in runs] for _ in range(rounds)]
    return [min(column) for column in zip(*seconds, strict=True)]


def make_bare(
    num_data: int, dim: int, num_components: int, chunk: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """What a pass cannot do without: its float32 products; with screening, the passes over N×D and bfloat16 products.

    The second centres, squares and converts the rows, multiplies them in bfloat16 and adds each to one component.
    """
    rows, shift, features = torch.randn(chunk, dim), torch.randn(dim), torch.randn(chunk, 2 * dim)
    weight, offset = torch.randn(2 * dim, num_components), torch.randn(num_components)
    where = torch.stack([torch.randint(num_components, (chunk,)), torch.arange(chunk)])
    resp = torch.sparse_coo_tensor(where, torch.ones(chunk), (num_components, chunk), check_invariants=False)
    coarse = weight.to(torch.bfloat16)

    def run_products() -> None:
        for _ in range(0, num_data, chunk):
            torch.addmm(offset, features, weight).T @ features

    def run_screened() -> None:
        for _ in range(0, num_data, chunk):
            torch.sub(rows, shift, out=features[:, dim:])
            torch.mul(features[:, dim:], features[:, dim:], out=features[:, :dim])
            (features.to(torch.bfloat16) @ coarse).amax(1)
            resp @ features

    return run_products, run_screened


def measure_throughput(results: dict) -> None:
    """One natural pass against what it is made of and the paper's online MAP-EM; the start and the moves beside it."""
    num_data, dim, batch, chunk = 100_000, 384, 8192, 2048
    x = make_embeddings(num_data, dim, 60)
    print(f"\nthroughput, N = {num_data}, D = {dim}; products, screened, start and adapt as shares of the pass")
    columns = ["pass /s", "products", "screened", "vs N×K×D", "start", "adapt", "assign /s"]
    print(f"{'':>10} {'K':>5} " + " ".join(f"{column:>9}" for column in columns))
    for covariance, num_components in (("diagonal", 100), ("rotated", 100), ("diagonal", 500), ("rotated", 500)):
        mixture = DirichletProcessMixture(num_components, dim, covariance)
        sample = x[: mixture.sample_size]
        begin = measure(lambda m=mixture, s=sample: m.initialize(s, num_data), 1)
        run_products, run_screened = make_bare(num_data, dim, num_components, chunk)

        def run_pass(mixture: DirichletProcessMixture = mixture) -> None:
            for rows in x.split(batch):
                mixture.partial_fit(rows)

        oracle = OnlineMAPEM(x[:num_components], x.var(0))
        rows = 4 * 1024 * 100 // num_components

        def run_oracle(oracle: OnlineMAPEM = oracle, rows: int = rows) -> None:
            oracle.partial_fit(x[:rows])

        products, screened, own, slow = measure_beside([run_products, run_screened, run_pass, run_oracle])
        move = measure(lambda m=mixture, s=sample: m.adapt(s), 1)
        floor = measure_faiss(x, num_components)
        row = {
            "per_second": num_data / own,
            "products_share": products / own,
            "screened_share": screened / own,
            "times_oracle": slow / rows * num_data / own,
            "start_share": begin / own,
            "adapt_share": move / own,
            "faiss_per_second": floor,
        }
        results[f"throughput_{covariance}_K{num_components}"] = row
        print(
            f"{covariance:>10} {num_components:>5} {row['per_second']:>9.0f} {row['products_share']:>9.2f} "
            f"{row['screened_share']:>9.2f} {row['times_oracle']:>8.0f}× {row['start_share']:>9.2f} "
            f"{row['adapt_share']:>9.2f} {'-' if floor is None else f'{floor:.0f}':>9}"
        )


def compare_peers(results: dict, name: str, train: Tensor, test: Tensor, num_components: int, budget: float) -> None:
    """Seconds to within 0.1 % of the best held-out log-likelihood of all, and each one's final value."""
    peers = {
        "natural": follow_mixture(train, num_components, "natural"),
        "pyro": follow_mixture(train, num_components, "pyro"),
        "sklearn": follow_sklearn(train, num_components),
        "oracle": follow_oracle(train, num_components),
    }
    curves: dict[str, list[tuple[float, float]]] = {}
    for peer, steps in peers.items():
        curve, spent = [], 0.0
        while spent < budget:
            start = clock()
            score = next(steps)
            spent += clock() - start
            curve.append((spent, score(test)))
        curves[peer] = curve
    best = max(value for curve in curves.values() for _, value in curve)
    target = best - 0.001 * abs(best)
    sizes = f"N = {len(train)}, {len(test)} held out, D = {train.shape[1]}, K = {num_components}"
    print(f"\n{name}: {sizes}, {budget:.0f} CPU s each")
    print(f"{'':>10} {'held-out nats':>14} {'s to 0.1 %':>11}")
    for peer, curve in curves.items():
        reached = next((seconds for seconds, value in curve if value >= target), None)
        final = curve[-1][1]
        results[f"{name}_{peer}"] = {"held_out": final, "seconds": reached}
        print(f"{peer:>10} {final:>14.3f} {'not reached' if reached is None else f'{reached:.1f}':>11}")


def compare_covariances(results: dict, train: Tensor, test: Tensor) -> None:
    """Held-out log-likelihood of each likelihood on real embeddings."""
    print(f"\nlikelihoods on real embeddings, N = {len(train)}")
    print(f"{'':>10} {'K':>4} {'active':>7} {'held-out':>9} {'CPU s':>6}")
    for covariance, num_components in [
        ("spherical", 100),
        ("diagonal", 100),
        ("rotated", 100),
        ("vmf", 100),
        ("full", 100),
    ]:
        start = clock()
        mixture = DirichletProcessMixture(num_components, train.shape[1], covariance)
        batches = train.split(BATCH if covariance != "full" else 8 * BATCH)
        mixture.fit(batches, max_epochs=3)
        seconds, value = clock() - start, float(mixture.log_prob(test).mean())
        results[f"likelihood_{covariance}"] = {"held_out": value, "active": mixture.posterior.num_active}
        print(f"{covariance:>10} {num_components:>4} {mixture.posterior.num_active:>7} {value:>9.2f} {seconds:>6.1f}")


class Stream:
    """Batches that are made when they are read and kept nowhere."""

    def __init__(self, num_data: int, dim: int, batch: int = 8192) -> None:
        self.num_data, self.batch = num_data, batch
        self.centres = torch.randn(20, dim, generator=torch.Generator().manual_seed(0))

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(1)
        for start in range(0, self.num_data, self.batch):
            size = min(self.batch, self.num_data - start)
            labels = torch.randint(20, (size,), generator=generator)
            yield self.centres[labels] + 0.1 * torch.randn(size, self.centres.shape[1], generator=generator)


def print_peak_memory(num_data: int) -> None:
    """Fit to a stream and print this process's peak resident memory, MB."""
    DirichletProcessMixture(32, 32).fit(Stream(num_data, 32), max_epochs=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_memory(results: dict) -> None:
    """Peak memory at three sizes, each in a process of its own."""
    print("\npeak memory of a streamed fit, D = 32, K = 32")
    for millions in (1, 4, 16):
        command = [sys.executable, __file__, "--peak-memory", str(millions * 1_000_000)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[f"memory_{millions}M"] = float(output.split()[-1])
        print(f"{millions:>4} M {results[f'memory_{millions}M']:>8.0f} MB")


def measure_scoring(results: dict) -> None:
    """1 024 patches against 500 components, beside a ViT-S/14 forward pass at 448×448."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14)
    network = Dinov2Model(config).eval()
    image = torch.rand(1, 3, 448, 448)
    x = make_embeddings(20_000, 384, 60)
    mixture = DirichletProcessMixture(500, 384).initialize(x)
    rotated = DirichletProcessMixture(500, 384, "rotated").initialize(x)
    with torch.no_grad():
        forward = measure(lambda: network(image), 5)
        with torch.autocast("cpu", torch.bfloat16):
            half = measure(lambda: network(image), 5)
    print("\nscoring 1 024 patches against 500 components, share of a ViT-S/14 pass at 448×448: float32, bfloat16")
    print(f"{'ViT-S/14':>22} {forward * 1000:>7.0f} ms, {half * 1000:.0f} ms in bfloat16")
    names = ("cosine_distance", "log_prob", "mahalanobis_distance", "euclidean_distance")
    scores = {name: getattr(mixture, name) for name in names} | {"rotated log_prob": rotated.log_prob}
    for name, compute in scores.items():
        seconds = measure(lambda compute=compute: compute(x[:1024]), 20)
        results[f"score_{name}"] = {"share": seconds / forward, "share_of_bfloat16": seconds / half}
        print(f"{name:>22} {seconds * 1000:>7.2f} ms {seconds / forward:>7.2%} {seconds / half:>7.2%}")


def measure_adaptivity(results: dict) -> None:
    """Components that carry 99 % of the mass, on 30 clusters with truncation 200, for five seeds."""
    print("\n30 clusters, truncation 200, D = 16: components carrying 99 %")
    for num_data, batch in ((1_000, 250), (1_000_000, 8192)):
        found = []
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            centres = torch.randn(30, 16, generator=generator)
            labels = torch.randint(30, (num_data,), generator=generator)
            x = centres[labels] + 0.15 * torch.randn(num_data, 16, generator=generator)
            mixture = DirichletProcessMixture(200, 16, seed=seed).fit(x.split(batch), max_epochs=4)
            found.append(mixture.posterior.count_components(0.99))
        results[f"adaptivity_{num_data}"] = found
        print(f"{num_data:>9} {found}")


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    sections = ["throughput", "synthetic", "real", "memory", "scoring", "adaptivity"]
    parser.add_argument("--data", type=Path, help="folder with brain_mri_2d, for real embeddings")
    parser.add_argument("--embedder", default="compact", help="of the real slices: a name or a local folder")
    parser.add_argument("--num-slices", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=25.0, help="CPU seconds of each peer")
    parser.add_argument("--only", nargs="*", choices=sections, default=sections)
    parser.add_argument("--peak-memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")  # peers that do not converge, pictures that have two dimensions
    if args.peak_memory:
        print_peak_memory(args.peak_memory)
        return
    results: dict = {}
    if "throughput" in args.only:
        measure_throughput(results)
    if "synthetic" in args.only:
        x = make_embeddings(34_000, 128, 60)
        compare_peers(results, "synthetic", x[:30_000], x[30_000:], 100, args.budget)
    if "real" in args.only and args.data is None:
        print("\nreal embeddings: skipped, no --data was given")
    elif "real" in args.only:
        train, test = embed_slices(args.data, args.embedder, args.num_slices)
        compare_peers(results, "real", train, test, 100, args.budget)
        compare_covariances(results, train, test)
    if "memory" in args.only:
        measure_memory(results)
    if "scoring" in args.only:
        measure_scoring(results)
    if "adaptivity" in args.only:
        measure_adaptivity(results)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
