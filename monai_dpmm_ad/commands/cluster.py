# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Find the kinds of anomaly in scans with a fitted bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_dpmm_ad.bundle import load_network, load_workflow
from monai_dpmm_ad.clustering import LINKAGES, find_types_file, group_descriptors, read_types
from monai_dpmm_ad.clustering.groups import (
    TAU,
    WEIGHTS,
    ItemGroups,
    check_options,
    describe_items,
    score_items,
    write_groups,
)
from monai_dpmm_ad.clustering.items import KINDS, Item, ItemCollector
from monai_dpmm_ad.commands.checks import absolute_paths, check_device, hold_output
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.dataset import ScanDataset, ScanFailure, write_failures
from monai_dpmm_ad.embedding import EmbeddingStore
from monai_dpmm_ad.errors import EmbeddingStoreError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.ops.patches import join_stages

__all__ = ["ClusterOutcome", "cluster", "gather_normal"]

PathLike = str | os.PathLike[str]

#: Where ``fit`` leaves the embeddings of the scans that it fitted, in the bundle.
STORE = Path("fit") / "embeddings" / "train"
OUTPUTS = ("clusters.csv", "clusters.json", "dendrogram.png", "failures.csv")
_NORMAL_PATCHES = 20_000


@dataclass(frozen=True)
class ClusterOutcome:
    """What the command found, and the scans that it could not process."""

    groups: ItemGroups
    failures: list[ScanFailure]


def cluster(
    bundle: PathLike,
    images: Sequence[PathLike],
    out: PathLike,
    items: str = KINDS[0],
    weights: str = WEIGHTS[0],
    tau: float = TAU,
    linkage: str = LINKAGES[0],
    num_clusters: int | None = None,
    normals: Sequence[PathLike] | None = None,
    types: PathLike | None = None,
    max_patches: int = 2000,
    seed: int = 0,
    trust_bundle: bool = False,
    overwrite: bool = False,
    **overrides: Any,
) -> ClusterOutcome:
    """Group scans or lesions: ``clusters.csv``, ``clusters.json``, a picture sheet per group, a dendrogram.

    Scans that the data call normal are left out.

    Args:
        bundle: folder of a fitted bundle.
        images: where the scans are.
        out: folder of the outputs.
        items: ``images``, or ``lesions``: the connected components of each scan's mask.
        weights: how patches are weighed, one of :data:`~monai_dpmm_ad.clustering.groups.WEIGHTS`.
        tau: see :func:`~monai_dpmm_ad.clustering.groups.describe_items`.
        linkage: ``ward``, ``average``, ``complete`` or ``single``.
        num_clusters: number of groups; None chooses it by silhouette.
        normals: normal scans, for ``semi-supervised``; None takes the embeddings that the bundle was fitted on.
        types: CSV with the columns ``file`` and ``type``; None looks for ``types.csv`` beside the data.
        max_patches: largest number of patches of an item.
        seed: of the choice of patches where there are more.
        trust_bundle: run the bundle's configs even where they are not this package's own, see `load_workflow`.
        overwrite: replace files in ``out`` that this package did not write.
        overrides: values of ids in ``configs/inference.json``.

    Raises:
        ValueError: a wrong option, or fewer than two items.
    """
    check_options(weights, tau, linkage, num_clusters)
    check_device(overrides)
    out = Path(out).absolute()
    with hold_output(out, overwrite, OUTPUTS):
        paths = absolute_paths(images)
        overrides |= {"dataset_dir": paths, "trust_bundle": trust_bundle}
        workflow = load_workflow(bundle, ["inference"], "inference", **overrides)
        workflow.initialize()
        get = workflow.parser.get_parsed_content
        network: AnomalyNet = load_network(workflow, bundle)
        scans = ScanDataset(_abnormal(get("datalist")), get("preprocessing"))
        if items == "images" and len(scans) < 2:
            raise ValueError(f"`images` must be at least two scans that may be abnormal, got {len(scans)}.")
        settings = {"axes": get("axes"), "channels": get("channels"), "batch_size": get("batch_size")}
        settings |= {"max_patches": max_patches, "seed": seed}
        collector = ItemCollector(
            network, kind=items, rate=get("false_positive_rate"), min_volume=get("min_lesion_volume"), **settings
        )
        found = collector.collect(scans)
        normal, failures = None, list(scans.failures)
        if weights == "semi-supervised":
            chosen = _dataset_of_normals(normals, get("preprocessing")) if normals else None
            normal = gather_normal(network, Path(bundle), chosen, settings)
            failures += chosen.failures if chosen is not None else []
        write_failures(out, failures)
        _check_number(found, items, len(scans), failures)
        descriptors = describe_items(found, score_items(found, weights, collector.bags, normal), tau)
        grouping = group_descriptors(descriptors, num_clusters, linkage)
        groups = ItemGroups.judge(found, grouping, _known_types([item.image for item in found], paths, types))
        chosen_options = {"items": items, "weights": weights, "tau": str(tau), "linkage": linkage}
        write_groups(out, groups, {"bundle": str(bundle), **chosen_options, "max_patches": max_patches, "seed": seed})
        workflow.finalize()
        return ClusterOutcome(groups, failures)


def _check_number(found: Sequence[Item], items: str, num_scans: int, failures: Sequence[ScanFailure]) -> None:
    if len(found) < 2:
        reason = f", {len(failures)} of which failed: {failures[0].path}: {failures[0].reason}" if failures else ""
        raise ValueError(f"`items` must be at least two {items}, got {len(found)} from {num_scans} scans{reason}.")


def _abnormal(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the scans that the data call normal."""
    return [item for item in items if item.get("abnormal") != 0]


def _dataset_of_normals(paths: Sequence[PathLike], preprocessing: Any) -> ScanDataset:
    items = resolve_datalist(absolute_paths(paths), section="training")
    return ScanDataset([item for item in items if not item.get("abnormal")], preprocessing)


def gather_normal(network: AnomalyNet, bundle: Path, dataset: ScanDataset | None, options: dict[str, Any]) -> Tensor:
    """Unit embeddings (N, S·D) of normal patches: of the scans given, else of those that the bundle was fitted on."""
    if dataset is not None:
        patches = [item.patches for item in ItemCollector(network, **options).collect(dataset, "Embedding normals")]
        rows = torch.cat(patches) if patches else torch.empty(0, 0)
    else:
        rows = _read_store(network, bundle / STORE, options["seed"])
    if not len(rows):
        raise ValueError("`normals` must give at least one patch, got none. Name normal scans with --normals.")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(options["seed"]))
    return rows[order[:_NORMAL_PATCHES]]


def _read_store(network: AnomalyNet, path: Path, seed: int) -> Tensor:
    if not path.is_dir():
        raise ValueError(f"`normals` must be given: the bundle has no embeddings of its own in {path}.")
    store = EmbeddingStore(path)
    if store.num_stages != network.embedder.num_stages or store.embed_dim != network.embedder.embed_dim:
        raise EmbeddingStoreError(f"{path}: holds embeddings of another backbone. Name normal scans with --normals.")
    return join_stages(store.sample(_NORMAL_PATCHES, seed=seed)["patches"])


def _known_types(paths: Sequence[str], searched: Sequence[str], types: PathLike | None) -> list[str | None]:
    file = Path(types) if types is not None else find_types_file(searched)
    if file is None:
        return [None] * len(paths)
    found = read_types(file, paths)
    if types is not None and not any(found):
        raise ValueError(f"`types` must name the scans, got {file}, which names none of them.")
    return found
