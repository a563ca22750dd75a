# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Raw image patches in place of embeddings, for detectors that learn their own features."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.embedding.base import Embedder
from monai_dpmm_ad.embedding.types import PatchEmbeddings
from monai_dpmm_ad.ops.patches import pad_to_multiple

__all__ = ["PIXELS", "PixelEmbedder"]

PIXELS = "pixels"


class PixelEmbedder(Embedder):
    """Give each patch's own grey values, row by row; the mean patch stands in for CLS.

    Args:
        patch_size: P, pixels; D = P².

    Example:
        >>> import torch
        >>> PixelEmbedder(4).embed(torch.rand(2, 1, 10, 8)).patches.shape
        torch.Size([2, 1, 3, 2, 16])
    """

    def __init__(self, patch_size: int = 16) -> None:
        super().__init__()
        if patch_size < 2:
            raise ValueError(f"`patch_size` must be at least 2 pixels, got {patch_size}.")
        self._patch_size = patch_size

    @property
    def patch_size(self) -> int:
        """P: side of a patch in pixels of the embedded image."""
        return self._patch_size

    @property
    def embed_dim(self) -> int:
        """D = P²."""
        return self._patch_size**2

    @property
    def num_stages(self) -> int:
        """One stage."""
        return 1

    def embed(self, images: Tensor) -> PatchEmbeddings:
        """Cut images ``(B, 1, H, W)`` into patches; see :meth:`Embedder.embed`.

        Raises:
            ValueError: images of more than one channel.
        """
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(
                f"`images` must have shape (B, 1, H, W), got {tuple(images.shape)}. "
                "The embedder 'pixels' takes one grey channel: set channels to 1."
            )
        padded, (h, w) = pad_to_multiple(images, self._patch_size)
        rows = F.unfold(padded, self._patch_size, stride=self._patch_size)  # (B, P², h·w)
        patches = rows.transpose(1, 2).reshape(len(images), 1, h, w, self.embed_dim)
        return PatchEmbeddings(patches, patches.flatten(2, 3).mean(2))

    def fingerprint(self) -> dict[str, Any]:
        """Describe the patches: their size is all that matters."""
        return {"name": PIXELS, "patch_size": self._patch_size}
