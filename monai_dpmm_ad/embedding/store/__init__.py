# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Embeddings of a data set on disk: shards of rows beside a manifest, written scan by scan."""

from __future__ import annotations

from monai_dpmm_ad.embedding.store.loader import ScanBatches, StoreLoader
from monai_dpmm_ad.embedding.store.parts import adopt_parts, part_path
from monai_dpmm_ad.embedding.store.reader import EmbeddingStore
from monai_dpmm_ad.embedding.store.writer import StoreWriter

__all__ = ["EmbeddingStore", "ScanBatches", "StoreLoader", "StoreWriter", "adopt_parts", "part_path"]
