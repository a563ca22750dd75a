# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What changes between two visits of healthy people, which is what a change of a patient is judged by."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.bundle.update import drop_known
from monai_dpmm_ad.commands.checks import PathLike
from monai_dpmm_ad.commands.simulated_visits import simulate_visits
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.dataset import ScanFailure, describe_failure
from monai_dpmm_ad.data.subjects import first_file, name_subjects
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import CheckpointError, ScanError
from monai_dpmm_ad.handlers.changes import change_statistics
from monai_dpmm_ad.normative import RegionCalibration
from monai_dpmm_ad.normative.change import compare_visits
from monai_dpmm_ad.normative.visits import Visit
from monai_dpmm_ad.transforms.sequences import find_present
from monai_dpmm_ad.transforms.skull import is_head, warn_of_heads
from monai_dpmm_ad.utils.defaults import usual_defaults
from monai_dpmm_ad.utils.files import PARTIAL, write_json
from monai_dpmm_ad.utils.log import LOG
from monai_dpmm_ad.utils.progress import track

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.model import AnomalyModel, AnomalyResult

__all__ = ["as_visit", "as_visits", "find_healthy", "observe_healthy"]

_SIMULATED = (
    "they come from simulated repeats of healthy scans: they speak of measurement error alone, not of what changes "
    "in healthy people between two visits, nor of another scanner"
)


def find_healthy(
    paths: PathLike | Sequence[PathLike], bundle: PathLike, choice: Mapping[str, Any]
) -> tuple[list[Item], list[ScanFailure]]:
    """Find the healthy scans that a change is judged by.

    Scans that the data call abnormal, and those that the bundle was fitted on, whose maps are quieter than those of new
    scans, are left out with a warning.

    Args:
        paths: where they are.
        bundle: the fitted bundle.
        choice: as :func:`~monai_dpmm_ad.data.resolve_datalist` takes it.

    Returns:
        Healthy scans, and the paths that lead nowhere.

    Raises:
        ScanError: every path leads nowhere.
        ValueError: no scan is left.
    """
    missing: list[ScanError] = []
    items = resolve_datalist(paths, failures=missing, **choice)
    if missing and not items:
        raise missing[0]
    try:
        fitted = {scan["sha256"] for scan in load_provenance(bundle)["scans"] if scan["role"] == "fitted"}
    except CheckpointError:  # a bundle that was handed on does not know them
        fitted = set()
    normal = [item for item in items if not item.get("abnormal")]
    if names := [str(item["name"]) for item in items if item.get("abnormal")]:
        shown = ", ".join(names[:3]) + ", …" * (len(names) > 3)
        LOG.warning("warning: %d scans of --healthy are marked abnormal and are left out: %s", len(names), shown)
    kept = drop_known(normal, fitted)
    if not kept:
        raise ValueError(
            "`healthy` must hold healthy scans that were not fitted, got none. Give others, or leave it out."
        )
    return kept, [ScanFailure(Path(error.path).name, error.path, error.reason) for error in missing]


@usual_defaults()
def observe_healthy(
    model: AnomalyModel,
    items: Sequence[Mapping[str, Any]],
    folder: Path | None = None,
    failures: list[ScanFailure] | None = None,
) -> tuple[RegionCalibration, str]:
    """Measure what changes between two visits of healthy people.

    Args:
        model: maps the scans.
        items: healthy scans that were not fitted. Where a subject has several, pairs of visits count alone; else
            second visits are simulated.
        folder: gets ``healthy_pairs.json``, and holds simulated visits for a while; None writes nothing there.
        failures: collects the scans that cannot be used, so that the others still count; None raises.

    Returns:
        The calibration of changed regions, and what it promises.

    Raises:
        ScanError: a scan that cannot be used, where ``failures`` is None, or none that can.
    """
    people = _group_by_subject(items)
    real = [group for group in people if len(group) > 1]
    calibration, peaks = RegionCalibration(), {}
    unusable: list[ScanFailure] = []
    for group in track(real or people, total=len(real or people), description="Healthy pairs"):
        name = str(group[0]["name"])
        try:
            statistics = _observe_pair(model, group, folder)
        except ScanError as error:
            if failures is None:
                raise
            unusable.append(describe_failure({"name": name, "image": group[0]["image"]}, error))
            continue
        calibration.update(name, statistics)
        peaks[name] = sorted(statistics.tolist(), reverse=True)
    if failures is not None:
        failures += unusable
    if not peaks:
        raise ScanError(unusable[0].path, f"{unusable[0].reason} (no healthy scan could be used)")
    calibration.finish()
    if folder is not None:
        kind = "pairs of visits" if real else "simulated repeats"
        write_json(folder / "healthy_pairs.json", {"kind": kind, "model": model.digest, "peaks": peaks})
    notes = [f"p-values are not below {1 / (1 + len(peaks)):.2g}, since {len(peaks)} healthy pairs give them"]
    if 0 < len(real) < len(people):
        notes.append(
            f"of {len(people)} healthy people {len(real)} have two visits, and only those count; give scans of one "
            "visit alone to have second ones simulated"
        )
    return calibration, "; ".join([*notes, *([] if real else [_SIMULATED])])


def _observe_pair(model: AnomalyModel, visits: Sequence[Mapping[str, Any]], folder: Path | None) -> NDArray[np.float64]:
    """The statistics of what changed in one healthy person, whose second visit is simulated where there is none."""
    # In the output folder the next run removes what a killed one left; elsewhere copies of a scan would stay.
    with tempfile.TemporaryDirectory(prefix=PARTIAL if folder else "dpmm-ad-", dir=folder) as temporary:
        simulated = len(visits) == 1
        pair = simulate_visits(visits[0], Path(temporary)) if simulated else visits[:2]
        try:
            results = [model.predict_item(item, keep_images=True) for item in pair]
            if any(is_head(result.scan["pred"]) for result in results):
                warn_of_heads({str(visits[0]["name"])})
            return change_statistics(compare_visits(*as_visits(*results)).change)
        except ScanError as error:  # nobody knows a simulated file
            raise (ScanError(first_file(dict(visits[0])), error.reason) if simulated else error) from error


def as_visit(result: AnomalyResult) -> Visit:
    """What a model says of a scan, as one visit."""
    image, pred = result.scan["image"], result.scan["pred"]
    path = str(pred.meta["filename_or_obj"])
    if result.map.ndim != 3 or min(result.map.shape) < 2:
        raise ScanError(path, "is no volume; visits are compared in space")
    channels = np.asarray(image.as_subclass(torch.Tensor).cpu(), dtype=np.float32)
    values, *others = (channels[number] for number in find_present(image))
    affine = np.asarray(image.affine, dtype=np.float64)
    return Visit(path, values, affine, result.map, result.mask, result.affine, tuple(others))


def as_visits(before: AnomalyResult, after: AnomalyResult) -> tuple[Visit, Visit]:
    """Two visits of the same sequences: sums of other maps say nothing of a change."""
    one, two = as_visit(before), as_visit(after)
    if find_present(before.scan["image"]) != find_present(after.scan["image"]):
        reason = f"has other sequences than the first visit, {one.path}: leave out of one what the other lacks"
        raise ScanError(two.path, reason)
    return one, two


def _group_by_subject(items: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    scans = [dict(item) for item in items]
    people: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item, who in zip(scans, name_subjects(scans), strict=True):
        people[who or str(first_file(item))].append(item)
    return [people[who] for who in sorted(people)]
