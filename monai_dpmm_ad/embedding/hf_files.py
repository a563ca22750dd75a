# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A backbone's files in the Hugging Face format: where they are, what they say, what their weights' hash is.

Only JSON and safetensors are read; nothing that a folder holds is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_dpmm_ad.embedding.catalogue import KNOWN_EMBEDDERS, explain_gate
from monai_dpmm_ad.errors import CheckpointError, find_behind
from monai_dpmm_ad.utils.files import file_sha256, read_json

__all__ = ["BackboneFiles", "Normalization", "locate_backbone", "read_normalization"]

_NEEDED = "config.json, model.safetensors and preprocessor_config.json"
_PATTERNS = ["config.json", "preprocessor_config.json", "processor_config.json", "model*.safetensors*"]
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# What a newer library writes into the same backbone's config.json without changing an embedding.
_INCIDENTAL = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})
_MAX_JSON_BYTES = 1 << 24


@dataclass(frozen=True)
class BackboneFiles:
    """A backbone on disk.

    Args:
        folder: where its files are.
        revision: the commit on Hugging Face; None for a local folder.
        weights: its safetensors files, in order.
    """

    folder: Path
    revision: str | None
    weights: tuple[Path, ...]

    def hash_weights(self) -> str:
        """Compute the SHA-256 of the weight file, as Hugging Face shows it; of the files' hashes if it is sharded."""
        digests = [file_sha256(path) for path in self.weights]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def hash_config(self) -> str:
        """Compute the SHA-256 of the configuration, less what does not change an embedding."""
        config = {
            key: value for key, value in read_config(self.folder / "config.json").items() if key not in _INCIDENTAL
        }
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Normalization:
    """``(x − mean) / std`` per channel, for x in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def locate_backbone(name_or_path: str, revision: str | None) -> BackboneFiles:
    """Find a backbone's files: in a local folder, in the local cache, or by downloading them.

    Args:
        name_or_path: a local folder, else a Hugging Face id.
        revision: branch, tag or commit; of an id only.

    Raises:
        ValueError: a revision of a local folder.
        CheckpointError: no such folder, files that are missing, or an id that cannot be reached.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"`revision` must be None for a local folder, got '{revision}' for {folder}. Leave it out."
            )
        return BackboneFiles(folder, None, _weight_files(folder))
    if folder.exists() or folder.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") != 1:
        raise CheckpointError(f"{name_or_path}: there is no such folder. A local backbone is a folder with {_NEEDED}.")
    folder = _download(name_or_path, revision)
    return BackboneFiles(folder, folder.name, _weight_files(folder))


def _download(name: str, revision: str | None) -> Path:
    """Take an id's files from the local cache, else from the hub; both say it quickly when they cannot."""
    from huggingface_hub import constants, snapshot_download

    try:
        local = constants.HF_HUB_OFFLINE
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=_PATTERNS, local_files_only=local, etag_timeout=5)
        )
    except Exception as error:  # the hub, its HTTP client and the sockets below each have their own families
        reason = str(error).strip().splitlines() or [type(error).__name__]
        gate = f" {explain_gate(name)}." if _is_gated(name, error) else ""
        raise CheckpointError(
            f"The Hugging Face backbone '{name}' cannot be loaded: {reason[0]} ({type(error).__name__}).{gate} Without "
            f"access, copy its {_NEEDED} from another machine into a folder and give that: --embedder /PATH/TO/FOLDER. "
            "`compact` needs no download."
        ) from error


def _is_gated(name: str, error: BaseException | None) -> bool:
    """Tell whether a download failed for want of an accepted licence, or of an id known to ask for one."""
    from huggingface_hub.errors import GatedRepoError

    if any(known.gated for known in KNOWN_EMBEDDERS if known.name == name):
        return True
    return find_behind(error, GatedRepoError) is not None


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: config.json is missing. A local backbone is a folder with {_NEEDED}.")
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise CheckpointError(
            f"{folder}: model.safetensors is missing; other formats are not read, since they can run code. "
            "Convert the weights with `save_pretrained` of transformers."
        )
    names = read_config(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: there is no weight map. Copy the backbone's files again.")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name}, named by {index.name}, is missing. Copy the files again.")
    return tuple(folder / name for name in files)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: not a JSON object, too large, or unreadable.
    """
    try:
        content = read_json(path, _MAX_JSON_BYTES)
    except ValueError as error:
        raise CheckpointError(f"{error}. Copy the backbone's files again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object. Copy the backbone's files again.")
    return content


def read_normalization(folder: Path, channels: int) -> Normalization:
    """Read a backbone's input normalisation; ImageNet's where its files give none.

    The processor's own rescaling counts from pixels in 0..255: it is folded in, so that images in [0, 1] are expected.

    Args:
        folder: the backbone's folder.
        channels: number of input channels.

    Raises:
        CheckpointError: values that cannot be used.
    """
    settings: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            settings = read_config(folder / name)
            settings = settings.get("image_processor", settings)
            break
    try:
        rescale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
        scale = 255 * rescale
        mean, std = _channel_values(settings, "image_mean", channels), _channel_values(settings, "image_std", channels)
        if scale <= 0 or min(std) <= 0:
            raise ValueError("image_std and rescale_factor must be positive")
        if not settings.get("do_normalize", True):
            mean, std = [0.0] * channels, [1.0] * channels
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / name}: the input normalisation cannot be used ({error}).") from error
    return Normalization(tuple(value / scale for value in mean), tuple(value / scale for value in std))


def _channel_values(settings: dict[str, Any], key: str, channels: int) -> list[float]:
    default = _IMAGENET_MEAN if key == "image_mean" else _IMAGENET_STD
    values = settings.get(key) or default
    values = [float(value) for value in (values if isinstance(values, (list, tuple)) else [values])]
    if len(values) != channels:
        average = sum(values) / len(values)
        if channels != 1 and len(values) != 1:
            raise ValueError(f"{key} has {len(values)} values for {channels} channels")
        values = [average] * channels
    if any(value != value or abs(value) > 1e6 for value in values):
        raise ValueError(f"{key} must be finite, got {values}")
    return values
