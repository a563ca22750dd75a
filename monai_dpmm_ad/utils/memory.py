# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Memory that a process frees and needs again a moment later."""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_heap"]

_OPTIONS = {-3: 1 << 30, -1: (1 << 31) - 1, -2: 64 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: bytes


def keep_heap() -> bool:
    """Let the allocator keep what is freed, for a process that is ours alone.

    By default glibc gives the activations of each forward pass back to the system, which has to clear every page of
    them again for the next pass: 4 to 8 per cent of a ViT-S/14's CPU time at 448×448. Kept, the process stays at its
    peak until it ends, which does not make that peak higher.

    Returns:
        Whether that was done: not with another allocator, and not where the environment sets these things.
    """
    own = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if own or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) == 1 for option, value in _OPTIONS.items())
