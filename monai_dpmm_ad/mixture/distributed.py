# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Sums over the processes of ``torch.distributed``; with one process, or none initialised, they do nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from monai_dpmm_ad.mixture.local_step import LocalStep
from monai_dpmm_ad.mixture.statistics import Statistics

__all__ = ["average_gradients", "fill_up", "gather_batch", "gather_rows", "get_world_size", "reduce_max", "reduce_sum"]
__all__ += ["sum_local_steps"]


def get_world_size() -> int:
    """Get the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over processes."""
    if get_world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(get_world_size())


def reduce_sum(value: float, device: torch.device) -> float:
    """Sum a number over processes."""
    return _reduce(value, device, dist.ReduceOp.SUM) if get_world_size() > 1 else value


def reduce_max(value: float, device: torch.device) -> float:
    """Find the largest of the processes' numbers."""
    return _reduce(value, device, dist.ReduceOp.MAX) if get_world_size() > 1 else value


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of their ranks.

    Args:
        rows: (n, D); n may differ between processes.

    Returns:
        (Σ n, D), the same on each.
    """
    if get_world_size() == 1:
        return rows
    parts: list[Tensor] = [rows] * get_world_size()
    dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts).to(rows.device)


def gather_batch(rows: Tensor) -> Tensor:
    """Put a batch together again of which process r of W got the rows r, r + W, ….

    Args:
        rows: (n, D), the share of this process.

    Returns:
        (Σ n, D) in the batch's own order, the same on each process.
    """
    joined, world_size = gather_rows(rows), get_world_size()
    order = [torch.arange(rank, len(joined), world_size, device=rows.device) for rank in range(world_size)]
    return joined[torch.cat(order).argsort()]


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


def _reduce(value: float, device: torch.device, operation: dist.ReduceOp.RedOpType) -> float:
    tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=operation)
    return float(tensor)
