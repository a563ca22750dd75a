# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Memory that a process frees and needs again a moment later."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

__all__ = ["available_memory", "describe_shortage", "keep_heap", "release_heap"]

# M_ARENA_MAX; M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD in bytes
_OPTIONS = {-8: 1, -3: 64 << 20, -1: (1 << 31) - 1, -2: 64 << 20}


def keep_heap() -> bool:
    """Let the allocator keep what is freed, for a process that is ours alone.

    By default glibc gives the activations of each forward pass back to the system, which has to clear every page of
    them again for the next pass: 4 to 8 per cent of a ViT-S/14's CPU time at 448×448. What is larger than 64 MiB, large
    volumes that is, goes back: kept, the places that they leave would not fit the next one. All threads share one heap:
    with one each, what the reader frees is of no use to the network, and a scan of 1 mm takes 0.3 GB more.

    Returns:
        Whether that was done: not with another allocator, and not where the environment sets these things.
    """
    own = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if own or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) == 1 for option, value in _OPTIONS.items())


def release_heap() -> None:
    """Give back to the system what the allocator keeps, before much else is needed; elsewhere than in glibc nothing."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


#: Memory that a volume takes at most while it is processed: in units of its size as float32, and bytes beside that, for
#: the network's batch of slices: what the largest volume of docs/scale.md took.
_FACTOR, _BESIDE = 4, 512 << 20
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still take without swapping, by the machine and the container; None if unknown."""
    known = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError):
        pass
    try:
        limit, used = ((_CGROUP / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        known.append(int(limit) - int(used))  # "max" where there is no limit
    except (OSError, ValueError):
        pass
    return min(known, default=None)


def describe_shortage(size: int) -> str | None:
    """Say why a volume cannot be processed here, before any memory is taken for it.

    Args:
        size: bytes of the volume as float32.

    Returns:
        The reason; None where there is enough memory, or nobody can tell.
    """
    available, needed = available_memory(), _FACTOR * size + _BESIDE
    if available is None or needed <= available:
        return None
    return (
        f"needs about {needed / 2**30:.1f} GiB of memory while it is processed; this machine has "
        f"{available / 2**30:.1f} GiB left"
    )
