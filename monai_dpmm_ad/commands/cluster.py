# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Find the kinds of anomaly in scans with a fitted bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle import load_workflow
from monai_dpmm_ad.bundle.sequences import refuse_sequences
from monai_dpmm_ad.clustering import LINKAGES, find_types, group_descriptors
from monai_dpmm_ad.clustering.groups import (
    TAU,
    WEIGHTS,
    InstanceGroups,
    check_options,
    describe_instances,
    score_instances,
    write_groups,
)
from monai_dpmm_ad.clustering.instances import KINDS, Instance, InstanceCollector
from monai_dpmm_ad.clustering.normals import gather_normal
from monai_dpmm_ad.commands.checks import absolute_paths, check_device, hold_output
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.dataset import ScanDataset, ScanFailure, write_failures
from monai_dpmm_ad.data.gate import write_left_out
from monai_dpmm_ad.data.subjects import first_file
from monai_dpmm_ad.utils.defaults import usual_defaults
from monai_dpmm_ad.utils.files import PathLike

__all__ = ["ClusterOutcome", "cluster"]

OUTPUTS = ("clusters.csv", "clusters.json", "dendrogram.png", "failures.csv", "left_out.csv")


@dataclass(frozen=True)
class ClusterOutcome:
    """What the command found, and the scans that it could not process."""

    groups: InstanceGroups
    failures: list[ScanFailure]


@usual_defaults()
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
    """Group scans or flagged regions: ``clusters.csv``, ``clusters.json``, a picture sheet per group, a dendrogram.

    Scans that the data call normal are left out.

    Args:
        bundle: folder of a fitted bundle.
        images: where the scans are.
        out: folder of the outputs.
        items: ``images``, or ``regions``: the connected components of each scan's mask.
        weights: how patches are weighed, one of :data:`~monai_dpmm_ad.clustering.groups.WEIGHTS`.
        tau: see :func:`~monai_dpmm_ad.clustering.groups.describe_instances`.
        linkage: ``ward``, ``average``, ``complete`` or ``single``.
        num_clusters: number of groups; None chooses it by silhouette.
        normals: normal scans, for ``semi-supervised``; None takes the embeddings that the bundle was fitted on.
        types: CSV with the columns ``file`` and ``type``; None looks for ``types.csv`` beside the data.
        max_patches: largest number of patches of an item.
        seed: of the choice of patches where there are more.
        trust_bundle: run the bundle's own configs, which are code, see `load_workflow`.
        overwrite: replace files in ``out`` that this package did not write.
        overrides: settings by name, and values of other ids in ``configs/inference.json``.

    Raises:
        ValueError: a wrong option, or fewer than two items.
    """
    check_options(weights, tau, linkage, num_clusters)
    if normals and weights != "semi-supervised":
        raise ValueError(
            f"`normals` must be left out with `weights` {weights}, which compare with no normal scans. Leave them out, "
            "or choose semi-supervised."
        )
    check_device(overrides)
    refuse_sequences(bundle, "cluster")
    out = Path(out).absolute()
    with hold_output(out, overwrite, OUTPUTS):
        paths = absolute_paths(images)
        overrides |= {"dataset_dir": paths, "trust_bundle": trust_bundle}
        with load_workflow(bundle, ["inference"], "inference", **overrides) as workflow:
            network, values = workflow.network, workflow.settings
            scans = ScanDataset(_abnormal(workflow.datalist), workflow.preprocessing)
        settings = {name: values[name] for name in ("axes", "channels", "batch_size")}
        settings |= {"max_patches": max_patches, "seed": seed}
        mask = {"rate": values["false_positive_rate"]} | {k: values[k] for k in ("false_regions", "slice_spacing")}
        _check_early(scans, items, num_clusters, paths, types)
        collector = InstanceCollector(network, kind=items, min_volume=values["min_region_volume"], **mask, **settings)
        chosen = _dataset_of_normals(normals, workflow.preprocessing) if normals else None
        normal = gather_normal(network, Path(bundle), chosen, **settings) if weights == "semi-supervised" else None
        found = collector.collect(scans)
        failures = [*workflow.found.list_failures(), *scans.failures, *(chosen.failures if chosen is not None else ())]
        write_failures(out, failures)
        write_left_out(out, workflow.found.left_out)
        _check_number(found, items, len(scans), failures)
        descriptors = describe_instances(found, score_instances(found, weights, collector.bags, normal), tau)
        grouping = group_descriptors(descriptors, num_clusters, linkage)
        groups = InstanceGroups.judge(found, grouping, find_types([instance.image for instance in found], paths, types))
        chosen_options = {"items": items, "weights": weights, "tau": str(tau), "linkage": linkage}
        write_groups(out, groups, {"bundle": str(bundle), **chosen_options, "max_patches": max_patches, "seed": seed})
        return ClusterOutcome(groups, failures)


def _check_early(
    scans: ScanDataset, items: str, num_clusters: int | None, paths: Sequence[str], types: PathLike | None
) -> None:
    """Refuse before the long work what cannot end well."""
    if items == "images" and len(scans) < 2:
        raise ValueError(f"`images` must be at least two scans that may be abnormal, got {len(scans)}.")
    if items == "images" and num_clusters is not None and num_clusters > len(scans):
        raise ValueError(f"`num_clusters` must lie between 1 and the number of items {len(scans)}, got {num_clusters}.")
    find_types([str(first_file(item)) for item in scans.data], paths, types)


def _check_number(found: Sequence[Instance], items: str, num_scans: int, failures: Sequence[ScanFailure]) -> None:
    if len(found) < 2:
        reason = f", {len(failures)} of which failed: {failures[0].path}: {failures[0].reason}" if failures else ""
        raise ValueError(f"`items` must be at least two {items}, got {len(found)} from {num_scans} scans{reason}.")


def _abnormal(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the scans that the data call normal."""
    return [item for item in items if item.get("abnormal") != 0]


def _dataset_of_normals(paths: Sequence[PathLike], preprocessing: Any) -> ScanDataset:
    items = resolve_datalist(absolute_paths(paths), section="training")
    return ScanDataset([item for item in items if not item.get("abnormal")], preprocessing)
