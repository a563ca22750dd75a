# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that survive interruption and a full disk, and the finished folder in the Hugging Face format."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.pretraining.model import IMAGE_MEAN, IMAGE_STD
from monai_dpmm_ad.utils.files import remove_file, replace_file, save_state, write_json
from monai_dpmm_ad.utils.integrity import check_archive

__all__ = [
    "average_backbones",
    "export_backbone",
    "latest_checkpoint",
    "load_backbone",
    "load_checkpoint",
    "save_checkpoint",
]

_NAME = re.compile(r"step_(\d{7})\.pt")
_KEPT = 2
_KEYS = frozenset({"step", "recipe", "student", "teacher", "optimizer", "centre", "generators", "history"})


def save_checkpoint(folder: str | os.PathLike[str], state: dict[str, Any]) -> Path:
    """Write a checkpoint under its final name at once or not at all, and remove all but the last two.

    Args:
        folder: where checkpoints lie, made if need be.
        state: tensors, numbers and text; its ``step`` gives the name.

    Raises:
        CheckpointError: when it cannot be written; earlier checkpoints are untouched.
    """
    path = Path(folder) / f"step_{state['step']:07d}.pt"
    try:
        save_state(path, state)
    except OSError as error:
        last = latest_checkpoint(folder)
        kept = f" The last good checkpoint is {last}." if last else ""
        raise CheckpointError(f"{path}: cannot be written ({error}). Free disk space and run again.{kept}") from error
    for old in _list_checkpoints(folder)[:-_KEPT]:
        remove_file(old)
    return path


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """Find the checkpoint with the most steps, or None."""
    found = _list_checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint; no code in it is run.

    Raises:
        CheckpointError: when it is damaged or something else.
    """
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling a damaged file raises
        raise CheckpointError(
            f"{path}: is no readable checkpoint ({str(error).splitlines()[0]}). Remove it to go back to the one before."
        ) from error
    missing = _KEYS - set(state) if isinstance(state, dict) else _KEYS
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(sorted(missing))}. It is no checkpoint of a pre-training.")
    return state


def export_backbone(backbone: Dinov2Model, out: str | os.PathLike[str]) -> None:
    """Write ``config.json``, ``model.safetensors`` (float16) and ``preprocessor_config.json``.

    Args:
        backbone: what `from_pretrained` shall load; it is not changed.
        out: folder, made if need be.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    folder = Path(out)
    half = copy.deepcopy(backbone).half()
    patch, size = backbone.config.patch_size, backbone.config.image_size
    settings = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": False,
        "do_normalize": True,
        "image_mean": [IMAGE_MEAN] * 3,
        "image_std": [IMAGE_STD] * 3,
        "patch_size": patch,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half.config.architectures, half.config.dtype = [type(half).__name__], torch.float16
        replace_file(folder / "config.json", half.config.to_json_file)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in half.state_dict().items()}
        replace_file(folder / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        write_json(folder / "preprocessor_config.json", settings)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error}). Free disk space and run again.") from error


def load_backbone(backbone: Dinov2Model, folder: str | os.PathLike[str]) -> None:
    """Give a backbone the weights of a folder that `export_backbone` wrote.

    Args:
        backbone: changed in place.
        folder: holds ``model.safetensors`` of the same architecture.

    Raises:
        CheckpointError: when the weights cannot be read or belong to another architecture.
    """
    path = Path(folder) / "model.safetensors"
    try:
        backbone.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{path}: cannot be the initial weights of this recipe ({reason}). Give weights of the same architecture."
        ) from error


def average_backbones(
    first: str | os.PathLike[str], second: str | os.PathLike[str], out: str | os.PathLike[str], share: float = 0.5
) -> None:
    """Write weights between those of a training and those that it began with.

    ``(1 − share) · first + share · second``: what the continuation learned, without losing all that came before.

    Args:
        first: folder that `export_backbone` wrote, the ``initial`` of the training of ``second``.
        second: folder of the continued training.
        out: folder of the result.
        share: of the second, in [0, 1].

    Raises:
        ValueError: a share out of range.
        CheckpointError: weights that cannot be read or are of different architectures.

    Reference:
        Wortsman et al. 2022, Robust fine-tuning of zero-shot models, section 2.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` must lie in [0, 1], got {share}.")
    backbones = []
    for folder in (first, second):
        try:
            backbones.append(Dinov2Model(Dinov2Config.from_pretrained(folder, local_files_only=True)))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{folder}: holds no backbone ({reason}). Give a folder of a pre-training."
            ) from error
    load_backbone(backbones[0], first)
    load_backbone(backbones[1], second)
    try:
        with torch.no_grad():
            for mean, other in zip(backbones[0].parameters(), backbones[1].parameters(), strict=True):
                mean.lerp_(other, share)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{second}: is of another architecture than {first}. Average a training with its start."
        ) from error
    export_backbone(backbones[0], out)


def _list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    if not Path(folder).is_dir():
        return []
    return sorted(path for path in Path(folder).iterdir() if _NAME.fullmatch(path.name))
