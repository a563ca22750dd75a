# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Attention in pieces against torch's fused attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_dpmm_ad.embedding import attention
from monai_dpmm_ad.embedding.attention import attend_in_pieces, attention_forward


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (3, 2, 17, 8), (2, 3, 40, 16)])
@pytest.mark.parametrize("piece", [1, 1000, 10**9])
def test_pieces_equal_the_fused_attention(shape: tuple[int, ...], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_LOGITS_BYTES", piece)
    q, k, v = torch.randn(3, *shape, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    torch.testing.assert_close(attend_in_pieces(q, k, v, 0.3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rotary", [False, True])
def test_interface_gives_tokens_before_heads(dtype: torch.dtype, rotary: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 20, 8)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    first = torch.float32 if rotary else dtype
    found, weights = attention_forward(torch.nn.Identity(), q.to(first), k.to(first), v.to(dtype), None)
    assert weights is None
    assert found.shape == (2, 20, 3, 8)
    torch.testing.assert_close(found.float(), expected, atol=1e-5 if found.dtype == torch.float32 else 3e-2, rtol=0)


def test_masks_are_obeyed() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    found, _ = attention_forward(torch.nn.Identity(), q, k, v, mask, scaling=0.7)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7)
    torch.testing.assert_close(found, expected.transpose(1, 2))
