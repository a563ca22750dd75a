# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Expected sufficient statistics: what a batch leaves behind, and all that a fitted mixture has to remember.

Statistics add over batches, shards and processes, and scale from a batch to the data set.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Statistics", "zero_statistics"]


class Statistics(NamedTuple):
    """Expected sufficient statistics under q(z), float64.

    Args:
        counts: (K,), N_k = Σ_n r_nk.
        sums: (K, F), Σ_n r_nk t(y_n), with t the features of the component family.
        entropy: (K,), −Σ_n r_nk log r_nk, nats.
        size: 0-dim, the number of data N = Σ_k N_k.
    """

    counts: Tensor
    sums: Tensor
    entropy: Tensor
    size: Tensor

    def __add__(self, other: tuple) -> Statistics:  # type: ignore[override]
        """Add statistics of other data."""
        return Statistics(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: tuple) -> Statistics:
        """Take away statistics of some of the data."""
        return Statistics(*(a - b for a, b in zip(self, other, strict=True)))

    def scale(self, factor: float | Tensor) -> Statistics:
        """Multiply by a factor: N/|batch| makes a batch stand for the data set."""
        return Statistics(*(a * factor for a in self))

    def mix(self, other: Statistics, rate: float | Tensor) -> Statistics:
        """Compute (1 − rate)·self + rate·other."""
        return Statistics(
            *(
                torch.lerp(a, b, torch.as_tensor(rate, dtype=a.dtype, device=a.device))
                for a, b in zip(self, other, strict=True)
            )
        )

    def widen(self, count: int) -> Statistics:
        """Add components that hold nothing.

        Args:
            count: how many.
        """
        pad = torch.nn.functional.pad
        return self._replace(
            counts=pad(self.counts, (0, count)),
            sums=pad(self.sums, (0, 0, 0, count)),
            entropy=pad(self.entropy, (0, count)),
        )

    def select(self, order: Tensor) -> Statistics:
        """Reorder the components.

        Args:
            order: (K,), a permutation of 0 … K−1.
        """
        return self._replace(counts=self.counts[order], sums=self.sums[order], entropy=self.entropy[order])


def zero_statistics(num_components: int, num_features: int, device: torch.device | None = None) -> Statistics:
    """Make the statistics of no data.

    Args:
        num_components: K.
        num_features: F.
        device: where to make them.
    """
    counts = torch.zeros(num_components, dtype=torch.float64, device=device)
    sums = torch.zeros(num_components, num_features, dtype=torch.float64, device=device)
    return Statistics(counts, sums, torch.zeros_like(counts), torch.zeros_like(counts[0]))
