# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The processes of a run under torchrun. Without torchrun there is one process, and nothing here does anything.

Thin over ``torch.distributed``. Ignite's ``idist`` would answer some of this too, but it keeps the first process group
that it sees, also after we have left that group, and `mixture` and `metrics` use this module and know no Ignite.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "average",
    "average_gradients",
    "gather_batch",
    "gather_lists",
    "gather_rows",
    "gather_sums",
    "get_rank",
    "get_world_size",
    "is_first",
    "join_processes",
    "joined_processes",
    "launched",
    "reduce_max",
    "reduce_sum",
    "share",
    "wait_for_all",
]

Item = TypeVar("Item")
Key = TypeVar("Key")


def get_rank() -> int:
    """Get this process's number, from 0."""
    return dist.get_rank() if _initialized() else 0


def get_world_size() -> int:
    """Get the number of processes."""
    return dist.get_world_size() if _initialized() else 1


def launched() -> bool:
    """Whether torchrun (or SLURM through it) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join_processes() -> None:
    """Join the group of processes that torchrun started, unless that has been done; NCCL on GPUs, gloo on CPUs.

    Example:
        >>> join_processes()  # doctest: +SKIP
    """
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def is_first() -> bool:
    """Whether this process is the one that speaks and writes for all, in or out of their group.

    Example:
        >>> is_first()
        True
    """
    return not launched() or int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined_processes() -> Iterator[None]:
    """Join the group of processes that torchrun started, where it did, and leave it at the end."""
    joined = launched() and not dist.is_initialized()
    if joined:
        join_processes()
    try:
        yield
    finally:
        if joined and dist.is_initialized():
            dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every process is here."""
    if get_world_size() > 1:
        dist.barrier()


def share(items: Sequence[Item]) -> list[Item]:
    """Every ``world_size``-th item, beginning with this process's rank; an empty list where there are too few.

    Example:
        >>> share(["a", "b", "c"])
        ['a', 'b', 'c']
    """
    return list(items[get_rank() :: get_world_size()])


def gather_lists(items: Sequence[Item]) -> list[Item]:
    """Join the lists of all processes, in the order of their ranks; the same on each.

    Args:
        items: whatever can be pickled.
    """
    if get_world_size() == 1:
        return list(items)
    parts: list[Any] = [None] * get_world_size()
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def gather_sums(sums: Mapping[Key, NDArray[np.int64]]) -> dict[Key, NDArray[np.int64]]:
    """Add up the arrays of all processes by their keys; a process may lack any. Whole numbers: the order is no matter.

    Example:
        >>> gather_sums({"a": np.array([1, 2])})
        {'a': array([1, 2])}
    """
    if get_world_size() == 1:
        return dict(sums)
    total: dict[Key, NDArray[np.int64]] = {}
    for key, values in gather_lists(list(sums.items())):
        total[key] = total[key] + values if key in total else values
    return total


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of their ranks.

    Args:
        rows: (n, D); n may differ between processes.

    Returns:
        (Σ n, D), the same on each.
    """
    if get_world_size() == 1:
        return rows
    return torch.cat(gather_lists([rows.cpu()])).to(rows.device)


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


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over processes."""
    if get_world_size() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(get_world_size())


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over processes; one that a process's batch did not touch counts as zero."""
    if get_world_size() == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    average(gradients)


def reduce_sum(value: float, device: torch.device) -> float:
    """Sum a number over processes."""
    return _reduce(value, device, dist.ReduceOp.SUM) if get_world_size() > 1 else value


def reduce_max(value: float, device: torch.device) -> float:
    """Find the largest of the processes' numbers."""
    return _reduce(value, device, dist.ReduceOp.MAX) if get_world_size() > 1 else value


def _reduce(value: float, device: torch.device, operation: dist.ReduceOp.RedOpType) -> float:
    tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=operation)
    return float(tensor)


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
