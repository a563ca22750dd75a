# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What changed between two visits of the same people."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.bundle import is_fitted, read_settings
from monai_dpmm_ad.commands.bids import write_bids_changes
from monai_dpmm_ad.commands.checks import PathLike, hold_output, make_absolute
from monai_dpmm_ad.commands.pairs import find_pairs
from monai_dpmm_ad.commands.simulated_visits import simulate_visits
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.covariates import add_covariates
from monai_dpmm_ad.data.dataset import ScanFailure, describe_failure, write_failures
from monai_dpmm_ad.data.subjects import first_file, name_subject
from monai_dpmm_ad.data.visits import Visits, check_same_person
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers.changes import KINDS, ChangedRegion, change_statistics, find_changes, write_changes
from monai_dpmm_ad.normative import RegionCalibration
from monai_dpmm_ad.normative.change import Change, compare_visits
from monai_dpmm_ad.normative.halfway import bring
from monai_dpmm_ad.normative.lattice import Lattice
from monai_dpmm_ad.normative.visits import Visit
from monai_dpmm_ad.transforms import output_path
from monai_dpmm_ad.transforms.save import write_map
from monai_dpmm_ad.transforms.sequences import find_present
from monai_dpmm_ad.transforms.skull import is_head, warn_of_heads
from monai_dpmm_ad.utils.files import write_csv, write_json
from monai_dpmm_ad.utils.progress import track

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.model import AnomalyModel, AnomalyResult

__all__ = ["CompareOutcome", "ComparedPair", "compare", "compare_results", "observe_healthy"]

TABLES = ("changes.csv", "changes.json", "pairs.csv", "healthy_pairs.json", "failures.csv", "changes.png")
_WHICH = ("First", "Second")
_FEW = "no healthy scans were given, so regions have no p-values and begin at a fixed level; give --healthy"
_SIMULATED = (
    "p-values come from simulated repeats of healthy scans: they speak of measurement error alone, not of what changes "
    "in healthy people between two visits, nor of another scanner"
)


@dataclass(frozen=True, eq=False)
class ComparedPair:
    """What changed in one person.

    Args:
        name: of the pair.
        regions: what changed, by rising p-value and falling peak.
        change: signed, ``(*spatial)`` on the first visit's own grid: positive is more unusual than before.
        mask: on that grid: 0, or 1 + the index of the region's kind in `KINDS`.
        after_map: the second visit's map on the first visit's grid.
        detail: both visits in the space half-way between them.
        in_range: False where a visit lies outside of what was fitted, so that no p-value is promised; None where that
            is not known.
        warning: what a user should know of the visits.
    """

    name: str
    regions: list[ChangedRegion]
    change: NDArray[np.float32]
    mask: NDArray[np.uint8]
    after_map: NDArray[np.float32]
    detail: Change
    in_range: bool | None = None
    warning: str | None = None

    def count(self) -> dict[str, int]:
        """Number of regions of each kind."""
        return {kind: sum(one.kind == kind for one in self.regions) for kind in KINDS}


@dataclass
class CompareOutcome:
    """What a comparison did.

    Args:
        changes: name of the pair → its regions.
        pairs: a row for each pair, as ``pairs.csv`` has it.
        failures: what could not be compared.
        note: what the p-values promise.
    """

    changes: dict[str, list[ChangedRegion]] = field(default_factory=dict)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[ScanFailure] = field(default_factory=list)
    note: str | None = None


def compare(
    bundle: PathLike,
    out: PathLike,
    before: Sequence[PathLike] | None = None,
    after: Sequence[PathLike] | None = None,
    table: PathLike | None = None,
    healthy: Sequence[PathLike] | None = None,
    session: Sequence[str] | None = None,
    trust_bundle: bool = False,
    overwrite: bool = False,
    bids: bool = False,
    **overrides: Any,
) -> CompareOutcome:
    """Find what is new, grown, shrunk and gone between two visits.

    Args:
        bundle: folder of a fitted bundle.
        out: folder of the results.
        before: first visits, a scan or folders; paired by subject where they are several.
        after: second visits.
        table: pairs, in place of both, see :func:`~monai_dpmm_ad.data.visits.read_visit_table`.
        healthy: healthy scans that were not fitted, for p-values: two of a subject are two visits; where nobody has
            two, a second visit is simulated of each.
        session: of a BIDS data set those of the first and of the second visits; ``after`` may then be left out.
        trust_bundle: as for :func:`~monai_dpmm_ad.commands.infer`.
        overwrite: as there.
        bids: write the changes of scans with BIDS names as BIDS derivatives as well, in ``out / "bids"``.
        overrides: settings by name, and ``device``.

    Raises:
        ValueError: neither a table nor both visits.
        ScanError: what cannot be paired.

    Example:
        >>> compare("my_bundle", "changes", before=["visit1.nii.gz"])
        Traceback (most recent call last):
        ValueError: `before` and `after` must be given both, or `table` alone. Name two scans, folders, or a table.
    """
    from monai_dpmm_ad.commands.model import AnomalyModel

    choice: dict[str, Any] = {
        name: overrides[name] for name in ("suffix", "pattern", "participant_label") if name in overrides
    }
    dicom = bool(overrides.pop("dicom", False))
    people = overrides.pop("covariates", None), bool(overrides.pop("participants", False))
    make_absolute(overrides, "regions")
    choice.setdefault("suffix", read_settings(bundle)["sequences"] if is_fitted(bundle) else None)
    pairs, failures = find_pairs(before, after, table, session, choice)
    folder = Path(out).absolute()
    with hold_output(folder, overwrite, TABLES):
        model = AnomalyModel.load(bundle, trust_bundle, **overrides)
        false_regions = float(model.settings["false_regions"])
        tell = partial(add_covariates, table=people[0], participants=people[1], needed=model.network.covariates)
        pairs = [Visits(pair.name, *tell([pair.before, pair.after])) for pair in pairs]
        calibration: RegionCalibration | None = None
        note: str | None = _FEW
        if healthy:
            calibration, note = observe_healthy(model, tell(resolve_datalist(list(healthy), **choice)), folder)
        outcome, shown = CompareOutcome(failures=failures, note=note), []
        for visits in track(pairs, total=len(pairs), description="Comparing"):
            try:
                check_same_person(visits)
                first, second = (model.predict_item(item, keep_images=True) for item in (visits.before, visits.after))
                pair = compare_results(visits.name, first, second, calibration, false_regions)
            except ScanError as error:
                outcome.failures.append(describe_failure({"name": visits.name, "image": visits.after["image"]}, error))
                continue
            _save(folder, pair, first, dicom)
            outcome.changes[pair.name] = pair.regions
            outcome.pairs.append(_describe(visits, pair))
            shown.append(pair)
        if bids:
            write_bids_changes(folder, outcome.pairs)
        _write_tables(folder, outcome)
        if shown and find_spec("matplotlib"):
            from monai_dpmm_ad.reporting.changes import plot_changes

            drawn = [(pair.name, pair.detail, pair.regions, pair.in_range) for pair in shown]
            plot_changes(folder / "changes.png", drawn)
    return outcome


def compare_results(
    name: str,
    before: AnomalyResult,
    after: AnomalyResult,
    calibration: RegionCalibration | None = None,
    false_regions: float = 1.0,
) -> ComparedPair:
    """Compare two visits that a model has mapped.

    Args:
        name: of the pair.
        before: what the model says of the first visit.
        after: of the second.
        calibration: of healthy pairs, see :func:`observe_healthy`.
        false_regions: expected number of changed regions of a healthy pair.

    Raises:
        ScanError: pictures, or visits that do not show the same.
    """
    change = compare_visits(*_as_visits(before, after))
    visits = (before.row, after.row)
    known = [row.in_range for row in visits]
    in_range = False if False in known else None if None in known else True
    told = [f"{which} visit: {row.warning}" for which, row in zip(_WHICH, visits, strict=True) if row.warning]
    regions, mask = find_changes(change, calibration, false_regions, in_range=in_range)
    pair, grid = change.pair, Lattice.indices(before.map.shape)
    to_half = np.linalg.inv(pair.to_before) @ before.affine  # from the first visit's voxels
    own = pair.lattice.affine
    signed, kinds = bring(change.change, own, grid, to_half), bring(mask, own, grid, to_half, order=0)
    after_map = bring(after.map, after.affine, grid, pair.to_after @ to_half)
    warning = " ".join(told) or None
    return ComparedPair(name, regions, signed, kinds.astype(np.uint8), after_map, change, in_range, warning)


def observe_healthy(
    model: AnomalyModel, items: Sequence[Mapping[str, Any]], folder: Path | None = None
) -> tuple[RegionCalibration, str | None]:
    """Measure what changes between two visits of healthy people.

    Args:
        model: maps the scans.
        items: healthy scans that were not fitted. Where a subject has several, pairs of visits count alone; else
            second visits are simulated.
        folder: gets ``healthy_pairs.json``; None writes nothing.

    Returns:
        The calibration of changed regions, and what it does not promise.
    """
    people = [list(group) for _, group in groupby(sorted(items, key=_subject), key=_subject)]
    real = [group[:2] for group in people if len(group) > 1]
    calibration, peaks = RegionCalibration(), {}
    with tempfile.TemporaryDirectory(prefix="dpmm-ad-") as temporary:
        pairs = real or [simulate_visits(group[0], Path(temporary)) for group in people]
        for first, second in track(pairs, total=len(pairs), description="Healthy pairs"):
            results = [model.predict_item(item, keep_images=True) for item in (first, second)]
            name = str(first["name"])
            warn_of_heads({name for result in results if is_head(result.scan["pred"])})
            statistics = change_statistics(compare_visits(*_as_visits(*results)).change)
            calibration.update(name, statistics)
            peaks[name] = sorted(statistics.tolist(), reverse=True)
    calibration.finish()
    if folder is not None:
        kind = "pairs of visits" if real else "simulated repeats"
        write_json(folder / "healthy_pairs.json", {"kind": kind, "model": model.digest, "peaks": peaks})
    return calibration, None if real else _SIMULATED


def as_visit(result: AnomalyResult) -> Visit:
    image, pred = result.scan["image"], result.scan["pred"]
    path = str(pred.meta["filename_or_obj"])
    if result.map.ndim != 3 or min(result.map.shape) < 2:
        raise ScanError(path, "is no volume; visits are compared in space")
    channels = np.asarray(image.as_subclass(torch.Tensor).cpu(), dtype=np.float32)
    values, *others = (channels[number] for number in find_present(image))
    affine = np.asarray(image.affine, dtype=np.float64)
    return Visit(path, values, affine, result.map, result.mask, result.affine, tuple(others))


def _as_visits(before: AnomalyResult, after: AnomalyResult) -> tuple[Visit, Visit]:
    """Two visits of the same sequences: sums of other maps say nothing of a change."""
    one, two = as_visit(before), as_visit(after)
    if find_present(before.scan["image"]) != find_present(after.scan["image"]):
        reason = f"has other sequences than the first visit, {one.path}: leave out of one what the other lacks"
        raise ScanError(two.path, reason)
    return one, two


def _subject(item: Mapping[str, Any]) -> str:
    return name_subject(dict(item)) or str(first_file(dict(item)))


def _save(folder: Path, pair: ComparedPair, before: AnomalyResult, dicom: bool) -> None:
    meta = {**before.scan["pred"].meta, "name": pair.name}
    source = str(meta["filename_or_obj"])
    maps: dict[str, NDArray[Any]] = {
        "change": pair.change,
        "changed": pair.mask,
        "before_anomaly": before.map,
        "after_anomaly": pair.after_map,
    }
    for postfix, values in maps.items():
        write_map(output_path(folder, pair.name, postfix, source), values, meta)
    if dicom:
        from monai_dpmm_ad.transforms.save_dicom import save_segmentation

        save_segmentation(
            output_path(folder, pair.name, "changed", source, ".dcm"),
            pair.mask,
            meta,
            [kind.capitalize() for kind in KINDS],
            pair.in_range,
        )


def _describe(visits: Visits, pair: ComparedPair) -> dict[str, Any]:
    sizes = {kind: sum(one.region.size for one in pair.regions if one.kind == kind) for kind in KINDS}
    return {
        "name": pair.name,
        "before": str(first_file(visits.before)),
        "after": str(first_file(visits.after)),
        "quality": pair.detail.pair.quality,
        **pair.count(),
        **{f"{kind}_mm3": size for kind, size in sizes.items()},
        "region_p_value": pair.regions[0].region.p_value if pair.regions else None,
        "in_range": pair.in_range,
        "warning": pair.warning,
    }


def _write_tables(folder: Path, outcome: CompareOutcome) -> None:
    outcome.changes = write_changes(folder / "changes.csv", folder / "changes.json", outcome.changes)
    rows = outcome.pairs
    columns = list(rows[0]) if rows else ["name", "before", "after"]
    write_csv(folder / "pairs.csv", columns, [[row[column] for column in columns] for row in rows])
    write_failures(folder, outcome.failures)
