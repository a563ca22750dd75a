# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The published DINO backbones: their real configurations with random weights, fewer blocks, and how they are listed.

The configurations are those of the published models, field by field, but for the number of blocks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.embedding import HFViTEmbedder, create_embedder
from monai_dpmm_ad.embedding.catalogue import KNOWN_EMBEDDERS, is_on_disk
from monai_dpmm_ad.embedding.hf_files import locate_backbone
from monai_dpmm_ad.errors import CheckpointError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
RESCALED = {"do_normalize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098, "do_resize": True}
# Hidden size, blocks, heads.
SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
V3_SIZES = {
    "vits16": (384, 12, 6, 1536, False),
    "vits16plus": (384, 12, 6, 1536, True),
    "vitb16": (768, 12, 12, 3072, False),
    "vitl16": (1024, 24, 16, 4096, False),
    "vith16plus": (1280, 32, 20, 5120, True),
}


def dinov2(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config.json`` and ``preprocessor_config.json`` of a DINOv2, with or without registers."""
    hidden, layers, heads = SIZES[name.rsplit("-", 1)[1]]
    registers = "registers" in name
    config = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "mlp_ratio": 4,
        "patch_size": 14,
        "image_size": 518,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        **({"num_register_tokens": 4} if registers else {}),
    }
    processor = {
        "image_processor_type": "BitImageProcessor",
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "resample": 3,
        "size": {"shortest_edge": 256},
        **RESCALED,
        **IMAGENET,
    }
    return config, processor


def dinov3(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of a DINOv3 ViT."""
    hidden, layers, heads, width, gated = V3_SIZES[name.split("-")[1]]
    config = {
        "model_type": "dinov3_vit",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": width,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "patch_size": 16,
        "image_size": 224,
        "num_channels": 3,
        "num_register_tokens": 4,
        "layer_norm_eps": 1e-5,
        "layerscale_value": 1.0,
        "rope_theta": 100.0,
        "pos_embed_rescale": 2.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
    }
    processor = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "resample": 2,
        "size": {"height": 224, "width": 224},
        **RESCALED,
        **IMAGENET,
    }
    return config, processor


def describe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    short = name.split("/")[1]
    return dinov3(short) if short.startswith("dinov3") else dinov2(short)


def make_config(settings: dict[str, Any]) -> Any:
    settings = dict(settings)
    return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)


def write(folder: Path, settings: dict[str, Any], processor: dict[str, Any]) -> Path:
    """Write a backbone with random weights, in float16 to be small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(make_config(settings))
    model.half().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


@pytest.mark.parametrize("known", KNOWN_EMBEDDERS, ids=lambda known: known.name.split("/")[1])
def test_catalogue_says_what_the_configurations_say(known: Any) -> None:
    config, _ = describe(known.name)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(make_config(config))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(known.millions, rel=0.005)
    assert known.patch_size == config["patch_size"]
    assert known.image_size == 32 * config["patch_size"]


@pytest.mark.parametrize("known", KNOWN_EMBEDDERS, ids=lambda known: known.name.split("/")[1])
def test_published_configurations_embed(known: Any, tmp_path: Path) -> None:
    config, processor = describe(known.name)
    # Only blocks are cut: what differs between the models are the other fields.
    settings = {**config, "num_hidden_layers": 2}
    embedder = create_embedder(write(tmp_path, settings, processor), stages=[0, 1], autocast=False)
    assert isinstance(embedder, HFViTEmbedder)
    patch = known.patch_size
    images = torch.rand(1, 1, 3 * patch - 2, 2 * patch, generator=torch.Generator().manual_seed(0))
    found = embedder.embed(images)
    assert found.patches.shape == (1, 2, 3, 2, config["hidden_size"])
    assert found.patches.isfinite().all()
    assert (embedder.fingerprint()["image_mean"], embedder.fingerprint()["image_std"]) == tuple(
        pytest.approx(IMAGENET[key]) for key in ("image_mean", "image_std")
    )
    # CLS, registers, patches: the same tokens as a plain call of transformers gives.
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    pixels = (torch.nn.functional.pad(images, (0, 0, 0, 2)).expand(-1, 3, -1, -1) - mean) / std
    model = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        tokens = model(pixel_values=pixels).last_hidden_state[0]
    skipped = 1 + config.get("num_register_tokens", 0)
    torch.testing.assert_close(found.patches[0, 1].flatten(0, 1), tokens[skipped:], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.cls[0, 1], tokens[0], atol=1e-3, rtol=0)


def test_the_list_names_all_and_says_what_is_here(capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("monai_dpmm_ad.embedding.catalogue.is_on_disk", lambda name: name.endswith("v2-base"))
    assert main(["embedders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = {line.split()[0]: line for line in lines if line}
    assert row["compact"].endswith("yes, ships")
    assert row["facebook/dinov2-base"].endswith("yes")
    assert row["facebook/dinov2-small"].endswith("no")
    assert row["facebook/dinov3-vits16-pretrain-lvd1689m"].endswith("no, gated")
    assert "DINOv3 License" in row["facebook/dinov3-vitl16-pretrain-lvd1689m"]


def test_what_is_cached_is_seen_without_a_network(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not is_on_disk("facebook/dinov2-small")
    snapshot = tmp_path / "models--facebook--dinov2-small" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    references = snapshot.parents[1] / "refs"
    references.mkdir()
    (references / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    assert not is_on_disk("facebook/dinov2-small")
    (snapshot / "model.safetensors").write_bytes(b"")
    assert is_on_disk("facebook/dinov2-small")


def test_a_gated_download_says_what_to_do(monkeypatch: Any) -> None:
    from huggingface_hub.errors import GatedRepoError

    def refuse(name: str, **options: object) -> str:
        error = GatedRepoError.__new__(GatedRepoError)
        error.args = ("Access to the model is restricted.",)
        try:
            raise error
        except GatedRepoError as gate:
            raise OSError("cannot find the files") from gate

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        CheckpointError,
        match=r"'someone/closed' is gated: accept its licence at https://huggingface\.co/someone/closed.*hf auth login",
    ):
        locate_backbone("someone/closed", None)


def test_an_id_known_to_be_gated_says_so_whatever_failed(monkeypatch: Any) -> None:
    def fail(name: str, **options: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"no route.*is gated"):
        locate_backbone("facebook/dinov3-vits16-pretrain-lvd1689m", None)
    with pytest.raises(CheckpointError, match="no route") as caught:
        locate_backbone("facebook/dinov2-small", None)
    assert "is gated" not in str(caught.value)
