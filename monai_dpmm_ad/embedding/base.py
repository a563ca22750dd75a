# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What every embedder does, and how two embedders are told apart."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from monai_dpmm_ad.embedding.types import PatchEmbeddings

__all__ = ["Embedder", "canonical_fingerprint", "fingerprint_differences", "fingerprint_digest"]

# Recorded for people beside a hash of the weights; the same weights in another folder are the same backbone.
DISPLAY_KEYS = frozenset({"name", "revision"})
# Differs between machines, by about 1e-6 in cosine distance: it does not make another backbone.
MACHINE_KEYS = frozenset({"precision"})


class Embedder(nn.Module, ABC):
    """Turns slices into patch embeddings; frozen, and never part of a checkpoint.

    Subclasses implement :meth:`embed`, :meth:`fingerprint` and the three sizes.

    Example:
        >>> import torch
        >>> from monai_dpmm_ad import create_embedder
        >>> embedder = create_embedder("pixels-8")
        >>> isinstance(embedder, Embedder), embedder.patch_size, embedder.embed_dim, embedder.num_stages
        (True, 8, 64, 1)
        >>> embedder(torch.rand(2, 1, 32, 24)).patches.shape
        torch.Size([2, 1, 4, 3, 64])
    """

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """P: side of a patch in pixels of the embedded image."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D: dimension of one embedding."""

    @property
    @abstractmethod
    def num_stages(self) -> int:
        """S: number of transformer stages that are returned."""

    @abstractmethod
    def embed(self, images: Tensor) -> PatchEmbeddings:
        """Embed slices.

        Args:
            images: ``(B, 1, H, W)`` or ``(B, 3, H, W)`` in [0, 1], any size; padded inside to whole patches.

        Returns:
            Patch embeddings ``(B, S, h, w, D)`` whose grid covers the padded image, and CLS embeddings ``(B, S, D)``;
            float32, not normalised.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Describe all that changes the embeddings, as plain JSON: two equal fingerprints embed alike."""

    def forward(self, images: Tensor) -> PatchEmbeddings:
        """Same as :meth:`embed`."""
        return self.embed(images)

    def digest(self) -> str:
        """Hash what makes this backbone another one: not its name, its folder or the machine's precision."""
        return fingerprint_digest(self.fingerprint())


def canonical_fingerprint(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a fingerprint into the form that it has after JSON: tuples become lists, keys strings.

    Raises:
        TypeError: a value that is not plain JSON.
        ValueError: NaN or infinity.
    """
    return dict(json.loads(json.dumps(fingerprint, sort_keys=True, allow_nan=False)))


def fingerprint_digest(fingerprint: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a fingerprint without names and without the machine's precision.

    Args:
        fingerprint: plain JSON values, nested as you like. Beside a ``weights_sha256`` the keys ``name``, ``revision``
            and ``precision`` do not count.

    Returns:
        64 hexadecimal digits.
    """
    kept = _strip(canonical_fingerprint(fingerprint), DISPLAY_KEYS | MACHINE_KEYS)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def fingerprint_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """List the keys in which two fingerprints differ, dotted where nested; names do not count beside a weight hash.

    Example:
        >>> fingerprint_differences({"size": {"width": 1, "height": 2}}, {"size": {"width": 3, "height": 2}})
        ['size.width']
    """
    flat = [_flatten(_strip(canonical_fingerprint(item), DISPLAY_KEYS)) for item in (first, second)]
    missing = object()
    return sorted(
        key for key in flat[0].keys() | flat[1].keys() if flat[0].get(key, missing) != flat[1].get(key, missing)
    )


def _strip(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        dropped = keys if "weights_sha256" in value else frozenset()
        return {key: _strip(item, keys) for key, item in value.items() if key not in dropped}
    return [_strip(item, keys) for item in value] if isinstance(value, list) else value


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat.update(_flatten(item, f"{prefix}{key}."))
        else:
            flat[prefix + key] = item
    return flat
