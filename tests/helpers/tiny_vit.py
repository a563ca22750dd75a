# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Tiny random vision transformers in the Hugging Face format, in place of DINO where only wiring is tested."""

from __future__ import annotations

import json
from pathlib import Path

import torch

__all__ = ["KINDS", "MEAN", "STD", "write_tiny_vit"]

KINDS = ("dinov2", "dinov2_with_registers", "dinov3", "vit")
MEAN = (0.4, 0.45, 0.5)
STD = (0.2, 0.22, 0.25)


def write_tiny_vit(
    folder: str | Path, kind: str = "dinov2", hidden: int = 32, layers: int = 4, patch: int = 14, seed: int = 0
) -> Path:
    """Write a random backbone to ``folder``: config.json, model.safetensors, preprocessor_config.json.

    Args:
        folder: made if needed.
        kind: one of ``KINDS``, or ``"deit"``, which has two prefix tokens.
        hidden: embedding dimension, a multiple of 16.
        layers: number of blocks.
        patch: patch size in pixels; position embeddings are made for 4×4 patches.
        seed: of the weights; the global random state is left as it was.

    Returns:
        The folder.
    """
    import transformers

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = {"dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters", "dinov3": "DINOv3ViT", "vit": "ViT"}
    prefix["deit"] = "DeiT"
    sizes = {"intermediate_size": 2 * hidden} if kind in ("vit", "deit", "dinov3") else {"mlp_ratio": 2}
    if kind in ("dinov2_with_registers", "dinov3"):
        sizes["num_register_tokens"] = 4
    config = getattr(transformers, prefix[kind] + "Config")(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 16),
        patch_size=patch,
        image_size=4 * patch,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, prefix[kind] + "Model")(config).eval()
        with torch.no_grad():  # the library's initial weights are so small that all tokens look alike
            for name, value in model.named_parameters():
                if value.ndim > 1:
                    value.copy_(torch.randn_like(value) * (0.3 if "embedding" in name else 0.15))
    model.save_pretrained(folder, safe_serialization=True)
    settings = {
        "image_mean": MEAN,
        "image_std": STD,
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
