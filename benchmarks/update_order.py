# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the order of updates costs: thirds of real embeddings one after the other, beside one fit of all.

    python benchmarks/update_order.py --data ../shared/data [--covariance diagonal] [--components 100]

The embeddings are those of ``benchmarks/mixture.py``; thirds are drawn at random, or sorted along the data's first
principal direction, so that each knows but a part. Prints held-out nats.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from mixture import embed_slices
from torch import Tensor

from monai_dpmm_ad.mixture import DirichletProcessMixture

ORDERS = [(0, 1, 2), (2, 1, 0), (1, 0, 2)]
EPOCHS, BATCH, SAMPLE = 3, 1024, 20_000


def learn(mixture: DirichletProcessMixture, x: Tensor) -> None:
    """Three epochs of shuffled batches, moves after each."""
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in x[order].split(BATCH):
            mixture.partial_fit(rows, len(x))
        mixture.adapt(x[:SAMPLE])


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--covariance", default="diagonal")
    parser.add_argument("--components", type=int, default=100)
    parser.add_argument("--num-slices", type=int, default=500)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    train, test = embed_slices(options.data, "compact", options.num_slices)
    train, test = train[:30_000], test[::2]

    def start(x: Tensor) -> DirichletProcessMixture:
        mixture = DirichletProcessMixture(options.components, x.shape[1], options.covariance)
        mixture.initialize(x[:SAMPLE], len(x))
        learn(mixture, x)
        return mixture

    print(f"joint {float(start(train).log_prob(test).mean()):.2f}", flush=True)
    centred = train[:2000] - train[:2000].mean(0)
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    kinds = {"random": train, "sorted": train[(train @ direction).argsort()]}
    for name, rows in kinds.items():
        thirds = rows.split(len(rows) // 3)
        for order in ORDERS:
            mixture = start(thirds[order[0]])
            for part in order[1:]:
                mixture.start_update()
                learn(mixture, thirds[part])
            print(f"{name} {order} {float(mixture.log_prob(test).mean()):.2f}", flush=True)


if __name__ == "__main__":
    main()
