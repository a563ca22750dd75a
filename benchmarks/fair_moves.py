# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether moves keep what they find: held-out log density before and after every ``adapt``.

    python benchmarks/fair_moves.py [--dim 384] [--clusters 50] [--components 250] [--num-data 60000] [--sample 10000]

Unit normal noise around normal centres. Prints one line an epoch.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from monai_dpmm_ad.mixture import DirichletProcessMixture


def draw(num_rows: int, centres: Tensor, seed: int) -> Tensor:
    """Rows (n, D) around centres (C, D)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(centres), (num_rows,), generator=generator)
    return centres[labels] + torch.randn(num_rows, centres.shape[1], generator=generator)


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--components", type=int, default=250)
    parser.add_argument("--num-data", type=int, default=60_000)
    parser.add_argument("--sample", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--covariance", default="diagonal")
    options = parser.parse_args()
    torch.set_num_threads(1)
    centres = torch.randn(options.clusters, options.dim, generator=torch.Generator().manual_seed(0))
    x, held_out = draw(options.num_data, centres, 1), draw(3000, centres, 10)
    sample = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(5))[: options.sample]]
    mixture = DirichletProcessMixture(options.components, options.dim, options.covariance)
    mixture.initialize(sample, len(x))
    for epoch in range(options.epochs):
        for rows in x.split(2048):
            mixture.partial_fit(rows, len(x))
        before = float(mixture.log_prob(held_out).mean())
        moves = mixture.adapt(sample)
        after = float(mixture.log_prob(held_out).mean())
        active = mixture.posterior.num_active
        print(f"epoch {epoch + 1}: {before:.2f} before, {after:.2f} after, {moves} moves, {active} active")


if __name__ == "__main__":
    main()
