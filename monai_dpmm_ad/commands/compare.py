# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What changed between two visits of the same people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.bundle import is_fitted, read_settings
from monai_dpmm_ad.bundle.promises import judge_people
from monai_dpmm_ad.commands.bids import write_bids_changes
from monai_dpmm_ad.commands.checks import PathLike, hold_output, make_absolute
from monai_dpmm_ad.commands.healthy_pairs import as_visits, find_healthy, observe_healthy
from monai_dpmm_ad.commands.pairs import find_pairs
from monai_dpmm_ad.data.bids import has_derivatives
from monai_dpmm_ad.data.covariates import add_covariates
from monai_dpmm_ad.data.dataset import ScanFailure, describe_failure, write_failures
from monai_dpmm_ad.data.subjects import first_file
from monai_dpmm_ad.data.visits import Visits, check_same_person
from monai_dpmm_ad.errors import SCAN_ERRORS, ScanError
from monai_dpmm_ad.handlers.changes import KINDS, ChangedRegion, find_changes, write_changes
from monai_dpmm_ad.normative import RegionCalibration
from monai_dpmm_ad.normative.change import Change, compare_visits
from monai_dpmm_ad.normative.halfway import bring
from monai_dpmm_ad.normative.lattice import Lattice
from monai_dpmm_ad.reporting.changes import MOST_SHOWN, plot_changes
from monai_dpmm_ad.transforms import output_path
from monai_dpmm_ad.transforms.save import write_map
from monai_dpmm_ad.utils.defaults import usual_defaults
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import remove_file, write_csv
from monai_dpmm_ad.utils.outputs import OutputFolder
from monai_dpmm_ad.utils.progress import track

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.model import AnomalyModel, AnomalyResult

__all__ = ["CompareOutcome", "ComparedPair", "compare", "compare_results", "observe_healthy"]

TABLES = ("changes.csv", "changes.json", "pairs.csv", "healthy_pairs.json", "failures.csv", "changes.png")
MAPS = ("change", "changed", "before_anomaly", "after_anomaly")
_WHICH = ("First", "Second")
_FEW = "no healthy scans were given, so regions have no p-values and begin at a fixed level; give --healthy"


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
        covariates: what of the person was taken into account at either visit; None for a bundle that takes nothing.
    """

    name: str
    regions: list[ChangedRegion]
    change: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.uint8] = field(repr=False)
    after_map: NDArray[np.float32] = field(repr=False)
    detail: Change = field(repr=False)
    in_range: bool | None = None
    warning: str | None = None
    covariates: tuple[str | None, str | None] = (None, None)

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
    before: PathLike | Sequence[PathLike] | None = None,
    after: PathLike | Sequence[PathLike] | None = None,
    table: PathLike | None = None,
    healthy: PathLike | Sequence[PathLike] | None = None,
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
        ValueError: neither a table nor both visits, a bundle of pictures, or `false_regions` without `healthy`.
        ScanError: what cannot be paired, or no pair at all.

    Example:
        >>> compare("my_bundle", "changes", before=["visit1.nii.gz"])
        Traceback (most recent call last):
        ValueError: `before` and `after` must be given both, or `table` alone. Name two scans, folders, or a table.
    """
    from monai_dpmm_ad.commands.model import AnomalyModel

    # Once pairs are chosen, each scan is mapped by itself: what chose it would miss the others there.
    choice: dict[str, Any] = {
        name: overrides.pop(name) for name in ("suffix", "pattern", "participant_label") if name in overrides
    }
    if dicom := bool(overrides.pop("dicom", False)):
        import_extra("highdicom", "dicom")  # a missing package is said before the long work
    tables = overrides.pop("covariates", None), bool(overrides.pop("participants", False))
    make_absolute(overrides, "regions")
    if overrides.get("false_regions") is not None and not healthy:
        raise ValueError(
            f"`false_regions` must come with `healthy`, whose pairs it speaks of, got {overrides['false_regions']} "
            "alone. Name healthy scans, or leave it out."
        )
    choice.setdefault("suffix", read_settings(bundle)["sequences"] if is_fitted(bundle) else None)
    pairs, failures = find_pairs(before, after, table, session, choice)
    if not pairs:
        raise ScanError(failures[0].path, f"{failures[0].reason} (no pair is left)")
    folder = Path(out).absolute()
    with hold_output(folder, overwrite, TABLES) as output:
        model = AnomalyModel.load(bundle, trust_bundle, **overrides)
        if model.network.kind.spatial_dims == 2:
            raise ValueError("`bundle` must be fitted on volumes, got one of pictures: visits are compared in space.")
        tell = partial(add_covariates, table=tables[0], participants=tables[1], needed=model.network.covariates)
        pairs = [Visits(pair.name, *tell([pair.before, pair.after])) for pair in pairs]
        calibration: RegionCalibration | None = None
        note: str | None = _FEW
        if healthy:
            others = {**choice, "participant_label": None}  # it names those who are compared
            people, missing = find_healthy(healthy, bundle, others)
            failures += missing
            calibration, note = observe_healthy(model, tell(people), folder, failures)
        outcome = CompareOutcome(failures=failures, note=note)
        drawn = _compare_pairs(model, pairs, calibration, folder, dicom, outcome)
        people_note = judge_people(row["covariates"] for row in outcome.pairs)
        outcome.note = "; ".join(filter(None, [outcome.note, people_note])) or None
        if bids or has_derivatives(folder / "bids"):
            write_bids_changes(folder, outcome.pairs)
        _write_tables(folder, outcome)
        _discard_earlier(output)
        if drawn and find_spec("matplotlib"):
            plot_changes(folder / "changes.png", drawn)
    return outcome


def _compare_pairs(
    model: AnomalyModel,
    pairs: Sequence[Visits],
    calibration: RegionCalibration | None,
    folder: Path,
    dicom: bool,
    outcome: CompareOutcome,
) -> list[tuple[str, Change, list[ChangedRegion], bool | None]]:
    """Compare pairs into an outcome, each whatever becomes of the others; returns the first ones, to be drawn."""
    false_regions = float(model.settings["false_regions"])
    drawn: list[tuple[str, Change, list[ChangedRegion], bool | None]] = []
    for visits in track(pairs, total=len(pairs), description="Comparing"):
        try:
            check_same_person(visits)
            first, second = (model.predict_item(item, keep_images=True) for item in (visits.before, visits.after))
            pair = compare_results(visits.name, first, second, calibration, false_regions)
            pair = _save(folder, pair, first, dicom)
        except SCAN_ERRORS as error:
            _discard_maps(folder, visits)
            outcome.failures.append(describe_failure({"name": visits.name, "image": visits.after["image"]}, error))
            continue
        outcome.changes[pair.name] = pair.regions
        outcome.pairs.append(_describe(visits, pair))
        if len(drawn) < MOST_SHOWN:  # the others' volumes are let go
            drawn.append((pair.name, pair.detail, pair.regions, pair.in_range))
    return drawn


@usual_defaults()
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
    change = compare_visits(*as_visits(before, after))
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
    people = (before.row.covariates, after.row.covariates)
    return ComparedPair(name, regions, signed, kinds.astype(np.uint8), after_map, change, in_range, warning, people)


def _save(folder: Path, pair: ComparedPair, before: AnomalyResult, dicom: bool) -> ComparedPair:
    """Write a pair's maps; that there is no DICOM output, an extra, is a warning of the pair."""
    meta = {**before.scan["pred"].meta, "name": pair.name}
    source = str(meta["filename_or_obj"])
    maps: tuple[NDArray[Any], ...] = (pair.change, pair.mask, before.map, pair.after_map)
    for postfix, values in zip(MAPS, maps, strict=True):
        write_map(output_path(folder, pair.name, postfix, source), values, meta)
    if not dicom:
        return pair
    from monai_dpmm_ad.transforms.save_dicom import save_segmentation

    path, names = output_path(folder, pair.name, "changed", source, ".dcm"), [kind.capitalize() for kind in KINDS]
    try:
        save_segmentation(path, pair.mask, meta, names, pair.in_range)
    except ScanError as error:
        remove_file(path, source)  # an earlier run's
        note = f"No DICOM mask was written: {error.path} {error.reason}."
        return replace(pair, warning=" ".join(filter(None, [pair.warning, note])))
    return pair


def _discard_maps(folder: Path, visits: Visits) -> None:
    """Remove what an earlier run wrote of a pair that has failed: it would look done."""
    output, source = OutputFolder(folder).hold(), str(first_file(visits.before))  # compare holds it already
    places = [output_path(folder, visits.name, postfix, source) for postfix in MAPS]
    for path in (*places, output_path(folder, visits.name, "changed", source, ".dcm")):
        output.discard(path, source)


def _discard_earlier(output: OutputFolder) -> None:
    """Remove what earlier runs wrote of pairs that this one has not compared: no table tells of them any more."""
    for owner, name in output.find_earlier(f"_{MAPS[0]}.nii.gz"):
        output.discard_earlier(owner, [f"{name}_{postfix}" for postfix in MAPS])
    output.discard_matching("bids/*_desc-change*")


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
        "covariates": "; then ".join(dict.fromkeys(filter(None, pair.covariates))) or None,
        "in_range": pair.in_range,
        "warning": pair.warning,
    }


def _write_tables(folder: Path, outcome: CompareOutcome) -> None:
    outcome.changes = write_changes(folder / "changes.csv", folder / "changes.json", outcome.changes)
    rows = outcome.pairs
    columns = list(rows[0]) if rows else ["name", "before", "after"]
    write_csv(folder / "pairs.csv", columns, [[row[column] for column in columns] for row in rows])
    write_failures(folder, outcome.failures)
