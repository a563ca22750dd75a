# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How the processes of ``torch.distributed`` fit one mixture; one process alone does nothing here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from monai_dpmm_ad.mixture.expectation import LocalStep
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.utils.distributed import get_world_size, reduce_max

__all__ = ["fill_up", "sum_local_steps"]


def sum_local_steps(step: LocalStep) -> LocalStep:
    """Sum what the processes found in their batches, in one message.

    Args:
        step: of this process's batch.

    Returns:
        of the batches of all processes together; the same on each.
    """
    if get_world_size() == 1:
        return step
    parts = [*step.statistics, step.evidence, step.group_entropy]
    flat = torch.cat([part.reshape(-1) for part in parts])
    dist.all_reduce(flat)
    summed = [s.reshape(p.shape) for s, p in zip(flat.split([p.numel() for p in parts]), parts, strict=True)]
    return LocalStep(Statistics(*summed[:4]), *summed[4:])


def fill_up(batches: Iterable[Tensor], embed_dim: int, device: torch.device) -> Iterator[Tensor]:
    """Read the batches of this process, then give empty ones until every process has read its own.

    Args:
        batches: tensors (n, D).
        embed_dim: D.
        device: where the empty ones are made.
    """
    if get_world_size() == 1:
        yield from batches
        return
    iterator = iter(batches)
    while True:
        batch = next(iterator, None)
        if reduce_max(float(batch is not None), device) == 0.0:
            return
        yield torch.empty(0, embed_dim, device=device) if batch is None else batch
