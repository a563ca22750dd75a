# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Normal patches, against which semi-supervised weights compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_dpmm_ad.clustering.instances import InstanceCollector
from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.embedding import EmbeddingStore
from monai_dpmm_ad.errors import EmbeddingStoreError, ScanError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.ops.patches import join_stages

__all__ = ["gather_normal"]

#: Where ``fit`` leaves the embeddings of the scans that it fitted, in the bundle.
STORE = Path("fit") / "embeddings" / "train"
_MAX_PATCHES = 20_000


def gather_normal(network: AnomalyNet, bundle: Path, dataset: ScanDataset | None, seed: int, **options: Any) -> Tensor:
    """Gather patches of normal scans, 20 000 at most.

    Args:
        network: fitted, on its device.
        bundle: its folder.
        dataset: normal scans; None takes the embeddings of those that the bundle was fitted on.
        seed: of the draw where there are more.
        options: of :class:`~monai_dpmm_ad.clustering.instances.InstanceCollector`.

    Returns:
        Unit embeddings (N, S·D), N ≥ 1.

    Raises:
        ValueError: no patch, or a bundle without embeddings.
        ScanError: no scan can be used.
        EmbeddingStoreError: embeddings of another backbone.
    """
    if dataset is not None:
        collector = InstanceCollector(network, seed=seed, **options)
        patches = [scan.patches for scan in collector.collect(dataset, "Embedding normals")]
        if not patches and dataset.failures:
            first = dataset.failures[0]
            raise ScanError(first.path, f"{first.reason} (no normal scan could be used)")
        rows = torch.cat(patches) if patches else torch.empty(0, 0)
    else:
        rows = _read_store(network, bundle / STORE, seed)
    if not len(rows):
        raise ValueError("`normals` must give at least one patch, got none. Name normal scans with --normals.")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:_MAX_PATCHES]]


def _read_store(network: AnomalyNet, path: Path, seed: int) -> Tensor:
    if not path.is_dir():
        raise ValueError(f"`normals` must be given: the bundle has no embeddings of its own in {path}.")
    store = EmbeddingStore(path)
    if store.num_stages != network.embedder.num_stages or store.embed_dim != network.embedder.embed_dim:
        raise EmbeddingStoreError(f"{path}: holds embeddings of another backbone. Name normal scans with --normals.")
    return join_stages(store.sample(_MAX_PATCHES, seed=seed)["patches"])
