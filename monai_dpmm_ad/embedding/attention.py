# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Attention in bfloat16 on the CPU, in pieces that fit its cache.

``torch``'s fused attention is no faster in bfloat16 than in float32 there. Plain matrix products are, as long as the
logits stay in the cache. Everything else (CUDA, float32, masks) goes to the fused attention.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ATTENTION", "attend_in_pieces", "attention_forward", "use_attention"]

ATTENTION = "monai_dpmm_ad"
_LOGITS_BYTES = 4 << 20  # of one piece: two heads of 1 025 tokens


def attend_in_pieces(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Compute ``softmax(scale · q kᵀ) v``, a few heads of a few images at a time.

    Args:
        query: ``(B, H, T, d)``.
        key: ``(B, H, T, d)``.
        value: ``(B, H, T, d)``.
        scale: of the logits.

    Returns:
        ``(B, H, T, d)``.
    """
    batch, heads, tokens, dim = query.shape
    # A trace fixes the number of pieces, but not the batch size that it is run with.
    if torch.jit.is_tracing():
        return ((query * scale) @ key.mT).softmax(-1) @ value
    piece = max(1, _LOGITS_BYTES // (tokens * tokens * query.element_size()))
    flat = [tensor.reshape(batch * heads, tokens, dim).split(piece) for tensor in (query * scale, key, value)]
    return torch.cat([(q @ k.mT).softmax(-1) @ v for q, k, v in zip(*flat, strict=True)]).view(query.shape)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention interface asks it, without dropout: backbones are in evaluation mode.

    Returns:
        ``(B, T, H, d)``, and None in place of the attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if value.device.type == "cpu" and value.dtype == torch.bfloat16 and attention_mask is None:
        # Rotary position embeddings leave query and key in float32.
        attended = attend_in_pieces(query.to(value.dtype), key.to(value.dtype), value, scale)
    else:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scale)
    return attended.transpose(1, 2).contiguous(), None


def use_attention(model: Any) -> None:
    """Let a transformers model attend by :func:`attention_forward`, if its attention can be exchanged at all."""
    from transformers import AttentionInterface

    if getattr(model, "_supports_attention_backend", False):
        AttentionInterface.register(ATTENTION, attention_forward)
        model.set_attn_implementation(ATTENTION)
