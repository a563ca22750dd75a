# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The allocator keeps freed memory where it is glibc's, and nobody else has told it what to do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from monai_dpmm_ad.utils.memory import keep_heap
import torch
print(keep_heap())
def use():
    for _ in range(8):
        torch.empty(48 << 20, dtype=torch.uint8).fill_(1)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def run(**variables: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run([sys.executable, "-c", SCRIPT], env={**clean, **variables}, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@needs_glibc
def test_freed_memory_is_used_again() -> None:
    done, faults = run()
    assert done == "True"
    assert int(faults) < 25_000  # of 8 blocks of 12 288 pages


@needs_glibc
def test_what_the_environment_says_stays() -> None:
    done, faults = run(MALLOC_MMAP_THRESHOLD_="131072")
    assert done == "False"
    assert int(faults) > 90_000
