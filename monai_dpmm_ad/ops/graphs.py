# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether what runs is being written down as a graph."""

from __future__ import annotations

import torch

__all__ = ["is_exporting"]


def is_exporting() -> bool:
    """Whether the running computation is recorded, by ``torch.export`` (ONNX) or by ``torch.jit.trace`` (TorchScript).

    A graph cannot ask for values, and what depends on the number of rows must not become a number of pieces.
    """
    return bool(torch.jit.is_tracing()) or torch.compiler.is_exporting()
