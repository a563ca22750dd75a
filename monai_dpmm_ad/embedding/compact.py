# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The embedder that ships with the package, and the one entry point to all of them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from monai_dpmm_ad.embedding.base import Embedder
from monai_dpmm_ad.embedding.hf_vit import HFViTEmbedder
from monai_dpmm_ad.embedding.pixels import PIXELS, PixelEmbedder
from monai_dpmm_ad.errors import CheckpointError, unknown_option

__all__ = ["COMPACT", "COMPACT_WEIGHTS", "compact_path", "count_millions", "create_embedder"]

COMPACT = "compact"

#: The weights that ship and their licence, the default first.
COMPACT_WEIGHTS = {COMPACT: "free, see its card"}


def compact_path(name: str = COMPACT) -> Path:
    """Find the folder of weights that ship with the package, in the Hugging Face format.

    Args:
        name: one of `COMPACT_WEIGHTS`.

    Raises:
        CheckpointError: an installation without them.
    """
    folder = Path(str(resources.files("monai_dpmm_ad.embedding") / "weights" / name))
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: the compact embedder's weights are missing. Install the package again.")
    return folder


def count_millions(folder: Path) -> float:
    """Count the parameters in a folder's weights, in millions, without reading them."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys()) / 1e6  # noqa: SIM118


def create_embedder(
    name_or_path: str | os.PathLike[str] = COMPACT,
    revision: str | None = None,
    stages: Sequence[int] | str | None = None,
    autocast: bool | None = None,
) -> Embedder:
    """Make an embedder from its name.

    Args:
        name_or_path: ``"compact"``, what ships with the package and needs no network; a Hugging Face id such as
            ``"facebook/dinov2-small"``; a local folder in the Hugging Face format; or ``"pixels"``, raw patches of
            16 pixels, ``"pixels-8"`` of 8.
        revision: branch, tag or commit of a Hugging Face id.
        stages: blocks whose output is returned, see :class:`~monai_dpmm_ad.embedding.HFViTEmbedder`.
        autocast: bfloat16 on or off; None lets the processor decide.

    Raises:
        ValueError: a word that is none of these.
        CheckpointError: a backbone that cannot be loaded.

    Example:
        >>> create_embedder("pixels-8").patch_size
        8
    """
    name = os.fspath(name_or_path)
    if name in COMPACT_WEIGHTS:
        return HFViTEmbedder(compact_path(name), revision, stages, autocast, name=name)
    pixels = re.fullmatch(rf"{PIXELS}(?:-(\d+))?", name)
    if pixels:
        return PixelEmbedder(int(pixels[1])) if pixels[1] else PixelEmbedder()
    if not os.path.exists(name) and os.sep not in name and "/" not in name:
        options = (*COMPACT_WEIGHTS, PIXELS, "ORGANISATION/MODEL of Hugging Face", "/PATH/TO/A/FOLDER")
        raise unknown_option("embedder", name, options)
    return HFViTEmbedder(name, revision, stages, autocast)
