# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which number formats a device computes with in hardware."""

from __future__ import annotations

import functools

import torch

__all__ = ["supports_bfloat16"]


@functools.cache
def supports_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware, so that it is faster than float32 there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    try:  # not everywhere in torch's public interface yet; Linux says the same
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "").split()
    except OSError:
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
