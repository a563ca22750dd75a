# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Frozen backbones that turn slices into patch embeddings, and embeddings of a data set on disk."""

from __future__ import annotations

from monai_dpmm_ad.embedding.base import Embedder, fingerprint_differences, fingerprint_digest
from monai_dpmm_ad.embedding.compact import compact_path, create_embedder
from monai_dpmm_ad.embedding.hf_vit import HFViTEmbedder
from monai_dpmm_ad.embedding.pixels import PixelEmbedder
from monai_dpmm_ad.embedding.store import EmbeddingStore, StoreLoader, StoreWriter, adopt_parts, part_path
from monai_dpmm_ad.embedding.types import EncodedSlices, PatchEmbeddings

__all__ = [
    "Embedder",
    "EmbeddingStore",
    "EncodedSlices",
    "HFViTEmbedder",
    "PatchEmbeddings",
    "PixelEmbedder",
    "StoreLoader",
    "StoreWriter",
    "adopt_parts",
    "compact_path",
    "create_embedder",
    "fingerprint_differences",
    "fingerprint_digest",
    "part_path",
]
