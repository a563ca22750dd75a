# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Load a transformers model from local files, frozen, and refuse what would embed nonsense."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_dpmm_ad.embedding.attention import use_attention
from monai_dpmm_ad.embedding.hf_files import BackboneFiles
from monai_dpmm_ad.embedding.packed import pack_linears
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.quiet import quiet

__all__ = ["final_norm", "load_model", "square_patch"]

_FINAL_NORMS = ("layernorm", "norm", "post_layernorm")
# Not used for patch tokens, and absent from some published checkpoints.
_OPTIONAL_WEIGHTS = ("pooler.", "embeddings.mask_token")


@contextlib.contextmanager
def _hide_progress() -> Iterator[None]:
    """Keep transformers' progress bar off the terminal."""
    from transformers.utils import logging

    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bar:
            logging.enable_progress_bar()


def load_model(files: BackboneFiles) -> Any:
    """Load the weights as float32 into the architecture that ``config.json`` names, frozen, in evaluation mode.

    Raises:
        CheckpointError: an architecture that is no ViT, or weights that are damaged or incomplete.
    """
    from transformers import AutoConfig, AutoModel

    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet("transformers"), _hide_progress():  # what its load report says becomes our errors
            config = AutoConfig.from_pretrained(files.folder, **safe)
            absent = [
                key
                for key in ("patch_size", "hidden_size", "num_hidden_layers", "num_channels")
                if not hasattr(config, key)
            ]
            if absent:
                raise CheckpointError(
                    f"{files.folder}: '{config.model_type}' is not a vision transformer (no {absent[0]})."
                )
            model, report = AutoModel.from_pretrained(
                files.folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                **safe,
            )
            use_attention(model)
    except CheckpointError:
        raise
    except Exception as error:  # transformers, safetensors and torch each have their own families
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{files.folder}: the backbone cannot be loaded: {reason}") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_OPTIONAL_WEIGHTS))
    if missing:
        raise CheckpointError(
            f"{files.folder}: {len(missing)} weights are missing, the first is {missing[0]}. Copy the files again."
        )
    pack_linears(model)
    return model.eval().requires_grad_(False)


def final_norm(model: nn.Module) -> nn.Module:
    """Find the LayerNorm behind the last block."""
    for name in _FINAL_NORMS:
        if isinstance(getattr(model, name, None), nn.Module):
            return getattr(model, name)
    raise AttributeError(f"no final LayerNorm among {', '.join(_FINAL_NORMS)}")


def square_patch(patch_size: Any, folder: Path) -> int:
    """Read a patch size that a configuration gives as a number or as two equal ones."""
    sides = list(patch_size) if isinstance(patch_size, (list, tuple)) else [patch_size]
    if len(set(sides)) != 1 or not isinstance(sides[0], int) or sides[0] < 1:
        raise CheckpointError(f"{folder}: only square patches are supported, got patch_size {patch_size}.")
    return sides[0]
