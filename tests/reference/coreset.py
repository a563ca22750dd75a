# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""k-centre-greedy as it is defined, one full distance matrix at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["greedy_k_centres"]


def greedy_k_centres(x: Tensor, count: int) -> list[int]:
    """Start at the point nearest to the mean; add the point whose nearest chosen one is farthest away."""
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    chosen = [int((x - x.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < count:
        nearest = distances[:, chosen].amin(1)
        if nearest.max() == 0:
            break
        chosen.append(int(nearest.argmax()))
    return chosen
