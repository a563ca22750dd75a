# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Torch's defaults, which a process may have changed for a model of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["usual_defaults"]


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Make tensors of float32 on the CPU where neither is named, as torch does unless it is told otherwise.

    Example:
        >>> torch.set_default_dtype(torch.float64)
        >>> with usual_defaults():
        ...     torch.ones(1).dtype
        torch.float32
        >>> torch.ones(1).dtype
        torch.float64
        >>> torch.set_default_dtype(torch.float32)
    """
    dtype = torch.get_default_dtype()
    # What enters a device sees every call of torch: only where it has to.
    elsewhere = torch.get_default_device().type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu") if elsewhere else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(dtype)
