# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""HFViTEmbedder against plain transformers calls, on tiny random backbones."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny_vit import KINDS, MEAN, STD
from torch import Tensor, nn

from monai_dpmm_ad.embedding import HFViTEmbedder
from monai_dpmm_ad.embedding.hf_vit import _resolve_stages
from monai_dpmm_ad.ops.precision import supports_bfloat16

Backbone = Callable[[str], Path]
PREFIX = {"dinov2": 1, "dinov2_with_registers": 5, "dinov3": 5, "vit": 1, "deit": 2}


def plain_call(folder: Path, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Last hidden state, and all hidden states after the final LayerNorm, of transformers itself."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    pixels = (images.expand(-1, 3, -1, -1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    options = {} if "dino" in folder.name else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True, **options)
        norm = model.norm if hasattr(model, "norm") else model.layernorm
        return output.last_hidden_state, [norm(state) for state in output.hidden_states[1:]]


@pytest.mark.parametrize("kind", [*KINDS, "deit"])
@pytest.mark.parametrize("channels", [1, 3])
def test_last_stage_equals_a_plain_transformers_call(backbone: Backbone, kind: str, channels: int) -> None:
    images = torch.rand(2, channels, 70, 42)
    expected, _ = plain_call(backbone(kind), images)
    embeddings = HFViTEmbedder(backbone(kind), autocast=False).embed(images)
    assert embeddings.patches.shape == (2, 1, 5, 3, 32)
    torch.testing.assert_close(embeddings.patches[:, 0].flatten(1, 2), expected[:, PREFIX[kind] :])
    torch.testing.assert_close(embeddings.cls[:, 0], expected[:, 0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", [[0, 1, 2, 3], [-1, 0], (1, 2)])
def test_stages_equal_hidden_states_after_the_final_norm(backbone: Backbone, kind: str, stages: list[int]) -> None:
    images = torch.rand(1, 3, 56, 84)
    _, hidden = plain_call(backbone(kind), images)
    embedder = HFViTEmbedder(backbone(kind), stages=stages, autocast=False)
    embeddings = embedder.embed(images)
    assert embedder.num_stages == len(stages)
    for position, stage in enumerate(stages):
        tokens = embeddings.patches[:, position].flatten(1, 2)
        torch.testing.assert_close(tokens, hidden[stage][:, PREFIX[kind] :])
        torch.testing.assert_close(embeddings.cls[:, position], hidden[stage][:, 0])


def test_blocks_behind_the_last_stage_are_not_run(backbone: Backbone) -> None:
    sizes = [sum(p.numel() for p in HFViTEmbedder(backbone("vit"), stages=s).parameters()) for s in ([3], [1])]
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(14, 14), (15, 29), (1, 1)])
def test_any_size_is_padded_with_black_to_whole_patches(backbone: Backbone, kind: str, size: tuple[int, int]) -> None:
    embedder = HFViTEmbedder(backbone(kind), autocast=False)
    images = torch.rand(2, 1, *size)
    grid = -(-size[0] // 14), -(-size[1] // 14)
    embeddings = embedder.embed(images)
    assert embeddings.grid == grid
    padded = torch.zeros(2, 1, grid[0] * 14, grid[1] * 14)
    padded[..., : size[0], : size[1]] = images
    assert torch.equal(embeddings.patches, embedder.embed(padded).patches)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_do_not_see_each_other(backbone: Backbone, kind: str) -> None:
    embedder = HFViTEmbedder(backbone(kind), autocast=False)
    images = torch.rand(3, 1, 42, 42)
    together = embedder.embed(images).patches
    for i in range(3):
        torch.testing.assert_close(embedder.embed(images[i : i + 1]).patches[0], together[i])


def test_backbone_is_frozen_and_stays_in_evaluation_mode(backbone: Backbone) -> None:
    embedder = HFViTEmbedder(backbone("dinov2")).train()
    assert not any(module.training for module in embedder.modules())
    assert not any(parameter.requires_grad for parameter in embedder.parameters())
    images = torch.rand(1, 1, 28, 28, requires_grad=True)
    assert not embedder.embed(images).patches.requires_grad


class Network(nn.Module):
    """A network that holds an embedder beside weights of its own."""

    def __init__(self, folder: Path, autocast: bool = False) -> None:
        super().__init__()
        self.embedder = HFViTEmbedder(folder, stages=[1, 3], autocast=autocast)
        self.head = nn.Linear(32, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embedder.embed(images).patches)


def test_weights_stay_out_of_the_state_dict_and_are_not_missed(backbone: Backbone) -> None:
    first, second = Network(backbone("dinov2")), Network(backbone("dinov2"))
    state = first.state_dict()
    assert set(state) == {"head.weight", "head.bias"}
    assert first.embedder.state_dict() == {}
    second.load_state_dict(state, strict=True)
    images = torch.rand(1, 1, 28, 28)
    assert torch.equal(first(images), second(images))


def test_foreign_weights_in_a_state_dict_are_reported(backbone: Backbone) -> None:
    network = Network(backbone("dinov2"))
    before = network.embedder.backbone.layernorm.weight.clone()
    state = {**network.state_dict(), "embedder.backbone.layernorm.weight": torch.zeros(32)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*embedder\.backbone\.layernorm\.weight"):
        network.load_state_dict(state)
    assert torch.equal(network.embedder.backbone.layernorm.weight, before)


def test_embedder_follows_to(backbone: Backbone) -> None:
    embedder = Network(backbone("dinov2")).to("meta").embedder
    assert {tensor.device.type for tensor in (*embedder.parameters(), *embedder.buffers())} == {"meta"}
    doubled = HFViTEmbedder(backbone("dinov2"), autocast=False).double()
    assert doubled.embed(torch.rand(1, 1, 28, 28)).patches.dtype == torch.float32


def test_copies_embed_alike(backbone: Backbone) -> None:
    embedder = HFViTEmbedder(backbone("dinov3"), stages=[0, 3])
    images = torch.rand(1, 1, 28, 42)
    assert torch.equal(copy.deepcopy(embedder).embed(images).patches, embedder.embed(images).patches)


@pytest.mark.parametrize(("kind", "autocast"), [*((kind, True) for kind in KINDS), ("dinov2", False)])
def test_trace_saves_loads_and_gives_the_same(backbone: Backbone, kind: str, autocast: bool) -> None:
    network = Network(backbone(kind), autocast).eval()
    images = torch.rand(2, 1, 42, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about shapes that are constant on purpose
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(network, images[:1], check_trace=False), file)
        file.seek(0)
        loaded = torch.jit.load(file)
        difference = loaded(images) - network(images)
    assert difference.abs().max() < (3e-2 if autocast else 1e-5)  # bfloat16 rounds in another order


def test_bfloat16_is_recorded_and_close(backbone: Backbone) -> None:
    exact = HFViTEmbedder(backbone("dinov2"), autocast=False)
    fast = HFViTEmbedder(backbone("dinov2"), autocast=True)
    assert (exact.precision, fast.precision) == ("float32", "bfloat16")
    assert exact.digest() == fast.digest()
    images = torch.rand(2, 1, 56, 56)
    a, b = exact.embed(images).patches, fast.embed(images).patches
    assert b.dtype == torch.float32
    assert 1 - torch.cosine_similarity(a, b, dim=-1).min() < 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):  # an outer autocast decides nothing
        assert torch.equal(exact.embed(images).patches, a)


def test_bfloat16_by_default_only_where_the_processor_has_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = HFViTEmbedder(backbone("dinov2"))
    for answer, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("monai_dpmm_ad.embedding.hf_vit.supports_bfloat16", lambda device, answer=answer: answer)
        assert embedder.precision == precision
        assert embedder.fingerprint()["precision"] == precision
    monkeypatch.undo()
    assert supports_bfloat16(torch.device("meta")) is False


@pytest.mark.parametrize("stages", [[4], [-5], [], [0.5], [True], [1, 1], [3, -1]])
def test_stages_that_do_not_exist_are_refused(backbone: Backbone, stages: list[int]) -> None:
    with pytest.raises(ValueError, match="`stages` must"):
        HFViTEmbedder(backbone("dinov2"), stages=stages)


@pytest.mark.parametrize("shape", [(1, 2, 28, 28), (1, 28, 28), (1, 1, 2, 28, 28)])
def test_images_of_another_shape_are_refused(backbone: Backbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`images` must have shape"):
        HFViTEmbedder(backbone("dinov2")).embed(torch.rand(shape))


def test_integer_images_are_refused(backbone: Backbone) -> None:
    with pytest.raises(TypeError, match="Divide integers by 255"):
        HFViTEmbedder(backbone("dinov2")).embed(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("num_blocks", "blocks"), [(12, (2, 5, 8, 11)), (4, (0, 1, 2, 3)), (6, (1, 2, 4, 5)), (2, (0, 1))]
)
def test_quarters_are_the_last_blocks_of_each(num_blocks: int, blocks: tuple[int, ...]) -> None:
    assert _resolve_stages("quarters", num_blocks) == blocks
    with pytest.raises(ValueError, match="Did you mean 'quarters'"):
        _resolve_stages("quarter", num_blocks)
