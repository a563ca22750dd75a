# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From instances to kinds of anomaly: scores, weighted descriptors, groups, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.clustering.agreement import compute_agreement
from monai_dpmm_ad.clustering.descriptors import (
    compute_descriptor,
    compute_weights,
    score_against_normal,
    score_against_others,
)
from monai_dpmm_ad.clustering.grouping import LINKAGES, Grouping
from monai_dpmm_ad.clustering.instances import Instance
from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.ops.distances import nearest_euclidean_distance
from monai_dpmm_ad.utils.files import read_json, remove_file, write_csv, write_json
from monai_dpmm_ad.utils.progress import track

__all__ = ["TAU", "WEIGHTS", "InstanceGroups", "check_options", "describe_instances", "score_instances", "write_groups"]

WEIGHTS = ("detector", "unsupervised", "semi-supervised", "uniform")
TAU = 1.0

_COLUMNS = ("name", "scan", "image", "region", "size", "group", "distance", "rank", "type")
_TYPICAL = 12  # thumbnails on a sheet


def check_options(weights: str, tau: float, linkage: str, num_clusters: int | None) -> None:
    """Refuse wrong options before the long work.

    Raises:
        ValueError: as the functions that take them.
    """
    if weights not in WEIGHTS:
        raise unknown_option("weights", weights, WEIGHTS)
    if linkage not in LINKAGES:
        raise unknown_option("linkage", linkage, LINKAGES)
    compute_weights(torch.zeros(1), tau)
    if num_clusters is not None and num_clusters < 1:
        raise ValueError(f"`num_clusters` must be at least 1, got {num_clusters}.")


@dataclass(frozen=True)
class InstanceGroups:
    """Items and the groups they fall into.

    Args:
        instances: n instances.
        grouping: of their descriptors.
        types: the known type of each instance, None where it is not known.
        metrics: agreement of groups and types; empty without types.
    """

    instances: Sequence[Instance]
    grouping: Grouping
    types: Sequence[str | None]
    metrics: Mapping[str, float]

    @classmethod
    def judge(cls, instances: Sequence[Instance], grouping: Grouping, types: Sequence[str | None]) -> InstanceGroups:
        """Compare groups with the known types of the instances that have one."""
        known = [index for index, name in enumerate(types) if name is not None]
        metrics: dict[str, float] = {}
        if known:
            metrics = compute_agreement(grouping.labels[known], [str(types[index]) for index in known])
            metrics["num_items_with_type"] = len(known)
        return cls(instances, grouping, types, metrics)

    def members(self, group: int) -> list[int]:
        """Indices of a group's instances, the most typical first."""
        inside = np.flatnonzero(self.grouping.labels == group)
        return [int(index) for index in inside[np.argsort(self.grouping.distances[inside], kind="stable")]]


def score_instances(
    instances: Sequence[Instance], weights: str, bags: Mapping[str, Tensor] | None = None, normal: Tensor | None = None
) -> list[Tensor]:
    """Score the patches of all instances.

    Args:
        instances: at least two.
        weights: ``detector``, the fitted detector's own scores; ``unsupervised``, how far a patch is from the other
            scans; ``semi-supervised``, how far from the nearest normal patch; ``uniform``, all alike.
        bags: for regions and ``unsupervised``, patches of each scan by its name.
        normal: (N, S·D), unit embeddings of normal patches, for ``semi-supervised``.

    Returns:
        A vector (n,) for each instance.

    Raises:
        ValueError: unknown weights, or what they need is missing.
    """
    if weights not in WEIGHTS:
        raise unknown_option("weights", weights, WEIGHTS)
    patches = [instance.patches for instance in instances]
    if weights == "detector":
        return [instance.scores for instance in instances]
    if weights == "uniform":
        return [torch.zeros(len(bag)) for bag in patches]
    if weights == "semi-supervised":
        if normal is None:
            raise ValueError("`normal` must be given for semi-supervised weights. Name normal scans with --normals.")
        return score_against_normal(patches, normal)
    if not bags:
        return score_against_others(
            patches, lambda numbers: track(numbers, total=len(numbers), description="Comparing")
        )
    tracked = track(instances, total=len(instances), description="Comparing")
    return [_score_against_scans(instance, bags) for instance in tracked]


def _score_against_scans(instance: Instance, bags: Mapping[str, Tensor]) -> Tensor:
    others = [bag for name, bag in bags.items() if name != instance.scan and len(bag)]
    if not others:
        raise ValueError(
            "`images` must be at least two scans for unsupervised weights, got one. "
            "Use --weights detector for the regions of a single scan."
        )
    return torch.stack([nearest_euclidean_distance(instance.patches, bag) for bag in others]).mean(0)


def describe_instances(
    instances: Sequence[Instance], scores: Sequence[Tensor], tau: float = TAU
) -> NDArray[np.float64]:
    """Compute the descriptor of each instance.

    Args:
        instances: n instances.
        scores: of their patches.
        tau: τ in standard deviations of all scores together, so that one value suits all kinds of weights **(ours)**;
            infinity gives plain means.

    Returns:
        (n, S·D).

    Raises:
        ValueError: τ that is not positive.
    """
    spread = float(torch.cat(list(scores)).double().std(correction=0))
    absolute = tau * (spread if spread > 0 else 1.0)
    return np.stack(
        [
            compute_descriptor(instance.patches, compute_weights(values, absolute, instance.coverage)).double().numpy()
            for instance, values in zip(instances, scores, strict=True)
        ]
    )


def write_groups(folder: Path, groups: InstanceGroups, settings: Mapping[str, Any]) -> None:
    """Write ``clusters.csv``, ``clusters.json`` and, where matplotlib is installed, the plots.

    Args:
        folder: where; plots of groups that an earlier run had beyond these are removed.
        groups: what was found.
        settings: written into the JSON.
    """
    grouping, summary = groups.grouping, folder / "clusters.json"
    rows = []
    for group in range(grouping.num_clusters):
        for rank, index in enumerate(groups.members(group), start=1):
            instance, distance = groups.instances[index], float(grouping.distances[index])
            place = (instance.name, instance.scan, instance.image, instance.region, instance.size)
            rows.append([*place, group + 1, distance, rank, groups.types[index]])
    write_csv(folder / "clusters.csv", _COLUMNS, rows)
    before = _earlier_number(summary)
    for number in range(grouping.num_clusters + 1, before + 1):
        remove_file(folder / f"group_{number}.png")
    write_json(
        summary,
        {
            "num_items": len(groups.instances),
            "num_clusters": grouping.num_clusters,
            "silhouettes": {str(number): value for number, value in grouping.silhouettes.items()},
            "metrics": dict(groups.metrics),
            "settings": dict(settings),
        },
    )
    if find_spec("matplotlib"):
        _plot(folder, groups)


def _earlier_number(path: Path) -> int:
    try:
        return int(read_json(path)["num_clusters"])
    except (ValueError, KeyError, TypeError):
        return 0


def _plot(folder: Path, groups: InstanceGroups) -> None:
    from monai_dpmm_ad.clustering.plots import plot_dendrogram, plot_group

    thumbnails = [instance.thumbnail for instance in groups.instances]
    for group in range(groups.grouping.num_clusters):
        members = groups.members(group)
        plot_group(
            folder / f"group_{group + 1}.png",
            f"Group {group + 1}: {len(members)} items, the most typical first",
            [(_caption(groups, index), thumbnails[index]) for index in members[:_TYPICAL]],
            thumbnails,
        )
    names = [instance.name for instance in groups.instances]
    plot_dendrogram(folder / "dendrogram.png", groups.grouping.merges, names, groups.grouping.labels)


def _caption(groups: InstanceGroups, index: int) -> str:
    name, known = groups.instances[index].name, groups.types[index]
    return f"{name}\n{known}" if known else name
