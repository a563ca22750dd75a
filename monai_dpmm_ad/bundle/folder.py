# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The bundle on disk: copy the template, write a fitted model into it, run one of its configs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from monai_dpmm_ad.bundle.integrity import check_digest, describe_digest
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.files import LOCK, PARTIAL, remove_leftovers, replace_file, save_state, write_json
from monai_dpmm_ad.utils.integrity import check_archive

__all__ = [
    "MODEL",
    "SETTINGS",
    "check_unfinished",
    "create_bundle",
    "is_fitted",
    "read_settings",
    "read_state",
    "save_model",
]

#: Ids that ``configs/inference.json`` takes over from ``configs/train.json``: what was fitted is what is run.
SETTINGS = (
    "embedder_name",
    "embedder_revision",
    "stages",
    "image_size",
    "min_foreground",
    "num_shifts",
    "patch_mask",
    "mask_threshold",
    "mask_closing",
    "intensity_tail",
    "intensity_weight",
    "detector_name",
    "detector_options",
    "upsampling",
    "num_regions",
    "num_components",
    "covariance",
    "score",
    "location_weight",
    "axes",
    "channels",
    "intensity",
    "pooling",
)
MODEL = Path("models") / "model.pt"
INFERENCE = Path("configs") / "inference.json"
METADATA = Path("configs") / "metadata.json"


def create_bundle(path: str | os.PathLike[str]) -> Path:
    """Copy the package's bundle template into a new folder, or take up an unfinished one.

    Args:
        path: folder of the bundle; made if needed.

    Raises:
        CheckpointError: when the folder holds a fitted bundle, or files that are no bundle.
    """
    path = Path(path)
    check_unfinished(path)
    _copy_template(path)
    return path


def check_unfinished(path: Path) -> None:
    """Check that a folder is new, empty or an unfinished bundle.

    Raises:
        CheckpointError: when it is not.
    """
    if is_fitted(path):
        raise CheckpointError(f"{path}: holds a fitted bundle already. Name another folder with --out.")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: is a file. Name a folder with --out.")
    if not (path / INFERENCE).is_file() and any(_is_foreign(item) for item in path.rglob("*")):
        raise CheckpointError(f"{path}: is not empty and no bundle. Name another folder with --out.")


def _is_foreign(item: Path) -> bool:
    return not item.is_dir() and not item.name.startswith(PARTIAL) and item.name != LOCK


def _copy_template(path: Path) -> None:
    """Copy file by file, each in one step, and first the one by which an unfinished bundle is known."""
    source = template()
    files = sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file())
    files = [file for file in files if file != MODEL and "__pycache__" not in file.parts]
    remove_leftovers(path / MODEL.parent, path / "fit", *{path / file.parent for file in files})
    for file in sorted(files, key=lambda file: file != INFERENCE):
        replace_file(path / file, partial(shutil.copyfile, source / file))


def template() -> Path:
    """The bundle inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "bundles" / "dpmm_ad"
    return installed if installed.is_dir() else package.parent / "bundles" / "dpmm_ad"


def is_fitted(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a bundle with a fitted model."""
    return (Path(path) / MODEL).is_file()


def read_settings(bundle_root: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the values of ``SETTINGS`` that a bundle was fitted with.

    Raises:
        CheckpointError: when its inference config cannot be read or lacks one.
    """
    path = Path(bundle_root) / INFERENCE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {name: config[name] for name in SETTINGS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no readable config of this package ({error}). Copy the bundle again."
        ) from error


def save_model(bundle_root: str | os.PathLike[str], network: AnomalyNet, settings: Mapping[str, Any]) -> None:
    """Complete a bundle: configs take over what was fitted, then the model is written.

    ``inference.json`` gets the settings, ``metadata.json`` under ``fitted`` what the detector says of itself.

    Args:
        bundle_root: folder of the bundle.
        network: its state dict holds tensors only.
        settings: top-level ids of ``configs/inference.json`` and their values.
    """
    root = Path(bundle_root)
    config = json.loads((root / INFERENCE).read_text(encoding="utf-8"))
    unknown = sorted(set(settings) - set(config))
    if unknown:
        raise CheckpointError(f"{root / INFERENCE}: has no {', '.join(unknown)}. Use the bundle's own configs.")
    write_json(root / INFERENCE, {**config, **settings})
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    metadata = json.loads((root / METADATA).read_text(encoding="utf-8"))
    write_json(root / METADATA, {**metadata, "fitted": {**network.detector.describe(), **describe_digest(state)}})
    save_state(root / MODEL, state)


def read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor] | None:
    """Read a checkpoint's tensors, and check that they are those that were written; nothing else is read from it.

    Args:
        path: the checkpoint.

    Returns:
        Name to tensor; None where there is no file, as in a bundle that must be fitted first.

    Raises:
        CheckpointError: a damaged file.
    """
    if not os.path.isfile(path):
        return None
    try:
        check_archive(path)
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        if Path(path).parts[-2:] == MODEL.parts:
            check_digest(Path(path).parents[1] / METADATA, state)
    except Exception as error:  # whatever unpickling a damaged file raises
        raise CheckpointError(f"{path}: is damaged or no model. Copy the bundle again, or fit again.") from error
    return state
