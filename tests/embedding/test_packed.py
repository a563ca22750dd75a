# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Packed linear layers are the layers that they replace, to the rounding of bfloat16."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers.tiny_vit import KINDS, write_tiny_vit
from torch import nn
from transformers.activations import ACT2FN

from monai_dpmm_ad.embedding import hf_model
from monai_dpmm_ad.embedding.hf_vit import HFViTEmbedder
from monai_dpmm_ad.embedding.packed import PackedLinear, pack_linears

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
pytestmark = needs_onednn


class Mlp(nn.Module):
    """As transformers' MLPs."""

    def __init__(self, activation: nn.Module, wide: int = 24) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(8, wide)
        self.fc2 = nn.Linear(wide, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(x)))


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (1, 1, 8)])
@torch.no_grad()
def test_a_packed_layer_equals_the_plain_one(shape: tuple[int, ...], gelu: bool, bias: bool) -> None:
    linear, x = nn.Linear(8, 24, bias=bias), torch.randn(shape)
    packed, exact = PackedLinear(linear, gelu), nn.Sequential(linear, nn.GELU() if gelu else nn.Identity())
    assert torch.equal(packed(x), exact(x))
    for _ in range(2):  # packed in the first call, used again in the second
        with bfloat16():
            y, expected = packed(x), exact(x)
        assert y.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), exact(x), atol=0.03, rtol=0.02)
        torch.testing.assert_close(y, expected, atol=0.03, rtol=0.02)
    assert torch.equal(packed(x), exact(x))


@torch.no_grad()
def test_a_layer_in_use_can_be_copied() -> None:
    layer, x = PackedLinear(nn.Linear(8, 24)), torch.randn(3, 8)
    with bfloat16():
        expected = layer(x)
        assert torch.equal(copy.deepcopy(layer)(x), expected)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("activation", [nn.GELU(), ACT2FN["gelu"]])
def test_gelu_is_taken_into_the_layer_before_it(activation: nn.Module) -> None:
    mlp = Mlp(activation).requires_grad_(False)
    x, names = torch.randn(4, 8), list(mlp.state_dict())
    expected = mlp(x)
    pack_linears(mlp)
    assert (mlp.fc1.gelu, mlp.fc2.gelu, type(mlp.activation)) == (True, False, nn.Identity)
    torch.testing.assert_close(mlp(x), expected)
    assert list(mlp.state_dict()) == names


@pytest.mark.parametrize("mlp", [Mlp(nn.GELU("tanh")), Mlp(nn.SiLU()), Mlp(nn.GELU(), wide=8)])
def test_what_is_no_such_mlp_keeps_its_activation(mlp: Mlp) -> None:
    activation = mlp.activation
    pack_linears(mlp)
    assert mlp.activation is activation
    assert not mlp.fc1.gelu
    assert not mlp.fc2.gelu


@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_embeds_as_without_packing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_vit(tmp_path / kind, kind)
    images = torch.rand(2, 1, 56, 42)
    packed = HFViTEmbedder(folder, autocast=True)
    monkeypatch.setattr(hf_model, "pack_linears", lambda model: None)
    plain, exact = HFViTEmbedder(folder, autocast=True), HFViTEmbedder(folder, autocast=False)
    count = sum(isinstance(module, PackedLinear) for module in packed.modules())
    assert count == sum(type(module) is nn.Linear for module in plain.modules())
    assert any(module.gelu for module in packed.modules() if isinstance(module, PackedLinear))
    errors = [(e.embed(images).patches - exact.embed(images).patches).norm() for e in (packed, plain)]
    assert errors[0] < 1.2 * errors[1]
    packed._autocast = False
    torch.testing.assert_close(packed.embed(images).patches, exact.embed(images).patches)
    assert packed.digest() == plain.digest()


def test_without_onednns_operators_the_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    mlp = Mlp(nn.GELU())
    pack_linears(mlp)
    assert type(mlp.fc1) is type(mlp.fc2) is nn.Linear
