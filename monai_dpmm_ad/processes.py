# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The processes of a run under torchrun; a run without it is one process, and nothing here does anything then."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = [
    "gather_lists",
    "get_rank",
    "get_world_size",
    "is_first",
    "join",
    "joined_processes",
    "launched",
    "share",
    "wait_for_all",
]

Item = TypeVar("Item")


def get_rank() -> int:
    """Get this process's number, from 0."""
    return dist.get_rank() if _initialized() else 0


def get_world_size() -> int:
    """Get the number of processes."""
    return dist.get_world_size() if _initialized() else 1


def launched() -> bool:
    """Whether torchrun (or SLURM through it) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> None:
    """Join the group of processes that torchrun started, unless that has been done; NCCL on GPUs, gloo on CPUs."""
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def is_first() -> bool:
    """Whether this process is the one that speaks and writes for all, in or out of their group."""
    return not launched() or int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined_processes() -> Iterator[None]:
    """Join the group of processes that torchrun started, where it did, and leave it at the end."""
    joined = launched() and not dist.is_initialized()
    if joined:
        join()
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
    """Every ``world_size``-th item, beginning with this process's rank; an empty list where there are too few."""
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


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
