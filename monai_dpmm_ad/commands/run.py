# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the command line does, as functions: each runs a workflow of a bundle with overrides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle import SETTINGS, create_bundle, is_fitted, load_workflow
from monai_dpmm_ad.bundle.request import covers_scans, is_same_request, record_request
from monai_dpmm_ad.bundle.update import read_update_settings
from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.commands.checks import PathLike, absolute_paths, check_device, check_writable, make_absolute
from monai_dpmm_ad.data.dataset import ScanFailure, read_failures
from monai_dpmm_ad.utils.distributed import is_first, joined_processes, launched, wait_for_all
from monai_dpmm_ad.utils.files import write_json

__all__ = ["Outcome", "demo", "evaluate", "fit", "infer"]

FITTED_ALREADY = "the bundle was fitted by this very command before; nothing was done"
NO_REPORT = "no report.html was written, since matplotlib is missing; pip install 'monai-dpmm-ad[report]' brings it"


@dataclass
class Outcome:
    """What a command did.

    Args:
        scans: one row per processed scan, see :class:`~monai_dpmm_ad.handlers.ScanRow`.
        failures: the scans that were not processed.
        metrics: figures of an evaluation, empty otherwise.
        report: path of the HTML report, None where none was written.
        note: what the user should know: why the calibration promises less, why there is no report; None if nothing.
        found: what was taken and left out, in one line; None where everything was taken.
        drift: whether the scans come from the population that was fitted, as ``drift.json`` says it; None where the
            bundle cannot tell.
    """

    scans: list[Any] = field(default_factory=list)
    failures: list[ScanFailure] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    report: Path | None = None
    note: str | None = None
    found: str | None = None
    drift: dict[str, Any] | None = None


def fit(
    images: Sequence[PathLike],
    out: PathLike,
    held_out: Sequence[PathLike] | None = None,
    update: PathLike | None = None,
    **overrides: Any,
) -> Outcome:
    """Fit normal scans into a complete bundle.

    Args:
        images: where the normal scans are: see :func:`~monai_dpmm_ad.data.resolve_datalist`.
        out: folder of the bundle; an interrupted fit continues there, one that is done is not done again.
        held_out: healthy scans to validate and calibrate on; None splits off subjects.
        update: folder of a fitted bundle to go on from: ``images`` are added to what it knows, and ``out`` is the new
            bundle. The old one is not changed, its scans are not needed.
        overrides: values of ids in ``configs/train.json``; of an update those that describe the data and the model are
            the old bundle's.
    """
    check_device(overrides)
    make_absolute(overrides, "regions")
    bundle = Path(out)
    if update is not None:
        overrides = {**read_update_settings(update, overrides), "update": str(Path(update).absolute())}
    overrides["dataset_dir"] = absolute_paths(images)
    overrides["validation_dir"] = absolute_paths(held_out) if held_out else None
    configs = ["train", "multi_gpu_train"] if launched() else ["train"]
    with joined_processes():
        if is_fitted(bundle) and is_same_request(bundle, overrides):
            split = load_workflow(bundle, configs, "train", **overrides).parser.get_parsed_content("split")
            if covers_scans(bundle, [*split.train, *split.held_out]):
                return Outcome(failures=read_failures(bundle), note=FITTED_ALREADY, found=_summarise_split(split))
        if is_first():
            check_writable(create_bundle(bundle))
            record_request(bundle, overrides)
        wait_for_all()
        workflow = load_workflow(bundle, configs, "train", **overrides)
        _run(workflow)
    split = workflow.parser.get_parsed_content("split")
    failures = [*split.found.list_failures(), *workflow.parser.get_parsed_content("failures")]
    return Outcome(failures=failures, note=split.note, found=_summarise_split(split))


def _summarise_split(split: Any) -> str | None:
    summary = split.found.summary()
    return f"{summary}; {len(split.train)} are fitted" if summary and split.is_held_out else summary


def infer(
    bundle: PathLike,
    images: Sequence[PathLike],
    out: PathLike,
    report: bool = True,
    trust_bundle: bool = False,
    **overrides: Any,
) -> Outcome:
    """Draw the anomaly map and mask of every scan, with tables and a report.

    Args:
        bundle: folder of a fitted bundle.
        images: where the scans are.
        out: folder of the outputs.
        report: whether to write ``report.html``, where the `report` extra is installed.
        trust_bundle: run the bundle's configs even where they are not this package's own, see `load_workflow`.
        overrides: values of ids in ``configs/inference.json``.
    """
    return _run_scans(bundle, ["inference"], images, out, report, {**overrides, "trust_bundle": trust_bundle})


def evaluate(
    bundle: PathLike,
    data: Sequence[PathLike],
    out: PathLike,
    report: bool = True,
    trust_bundle: bool = False,
    **overrides: Any,
) -> Outcome:
    """Do what `infer` does and write ``metrics.json`` and ``metrics.csv`` beside it.

    Args:
        bundle: folder of a fitted bundle.
        data: scans with their masks (``label``) or classes.
        out: folder of the outputs.
        report: as for `infer`.
        trust_bundle: as for `infer`.
        overrides: values of ids in the configs.
    """
    return _run_scans(bundle, ["inference", "evaluate"], data, out, report, {**overrides, "trust_bundle": trust_bundle})


def demo(out: PathLike, seed: int = 0) -> Outcome:
    """Make a cohort of phantoms with lesions, fit the healthy ones, evaluate the others, write the report.

    Args:
        out: folder for ``cohort/``, ``bundle/`` and ``results/``.
        seed: of the cohort and the fit.
    """
    from monai_dpmm_ad.data.phantoms import write_cohort

    out = Path(out)
    datalist = write_cohort(out / "cohort", seed=seed)
    fit([datalist], out / "bundle", seed=seed)
    return evaluate(out / "bundle", [datalist], out / "results")


def _run_scans(
    bundle: PathLike, configs: list[str], images: Sequence[PathLike], out: PathLike, report: bool, overrides: Any
) -> Outcome:
    check_device(overrides)
    make_absolute(overrides, "regions")
    out = Path(out).absolute()
    with joined_processes():
        if is_first():
            check_writable(out)
        wait_for_all()
        workflow = load_workflow(
            bundle,
            [*configs, "multi_gpu_evaluate"] if launched() else configs,
            "inference",
            dataset_dir=absolute_paths(images),
            output_dir=str(out),
            **overrides,
        )
        get = workflow.parser.get_parsed_content
        if overrides.get("regions") and not get("num_regions"):
            raise ValueError(
                f"`regions` must be given to a bundle that was fitted with them, got {bundle}. Fit with --regions."
            )
        if "evaluate" in configs:
            _check_truth(get("datalist"))
        _run(workflow)
    from monai_dpmm_ad.handlers import DriftHandler, ScanTable

    table = next(handler for handler in workflow.handlers if isinstance(handler, ScanTable))
    drift = next(handler for handler in workflow.handlers if isinstance(handler, DriftHandler)).result
    metrics = get("metrics") if "evaluate" in configs else None
    outcome = Outcome([row for row in table.rows if row.name not in table.earlier], workflow.evaluator.failures)
    outcome.drift, outcome.found = drift, get("found").summary()
    outcome.note = _judge_calibration(workflow.network_def.calibration, get("false_positive_rate"))
    if metrics is not None:
        outcome.metrics = metrics.figures
    if metrics is not None and is_first():
        write_json(out / "metrics.json", metrics.figures)
    if report and table.rows and not find_spec("matplotlib"):
        outcome.note = "; ".join(filter(None, [outcome.note, NO_REPORT]))
    elif report and table.rows and is_first():
        from monai_dpmm_ad.reporting.cohort import report_scans

        settings = {name: get(name) for name in SETTINGS}
        items = [*get("datalist"), *({**item, "name": name} for name, item in table.earlier.items())]
        outcome.report = report_scans(
            out, table.rows, items, workflow.network_def, settings, metrics, drift, outcome.note
        )
    return outcome


def _check_truth(items: Sequence[dict[str, Any]]) -> None:
    """Refuse to evaluate where there is nothing to compare with."""
    if not any(item.get("label") is not None or item.get("abnormal") is not None for item in items):
        raise ValueError(
            f"`data` must hold masks or classes to compare with, got {len(items)} scans without either. Looked for: "
            "`label` or `abnormal` in a datalist, folders good and Ungood with label or anomaly_mask beside the "
            "images, labelsTs beside imagesTs. Use infer for maps alone."
        )


def _judge_calibration(calibration: Calibration, rate: float) -> str | None:
    short = [number for number in range(1, calibration.num_regions + 1) if not calibration.guaranteed(rate, number)]
    if calibration.guaranteed(rate):
        return f"too few held-out healthy scans show region {', '.join(map(str, short))}" if short else None
    needed = math.ceil(1 / rate) - 1
    fitted = "" if calibration.held_out else ", which were also fitted"
    return (
        f"a false-positive rate of {rate:g} is guaranteed with {needed} held-out healthy scans or more; "
        f"this bundle was calibrated on {int(calibration.num_scans)}{fitted}"
    )


def _run(workflow: Any) -> None:
    workflow.initialize()
    try:
        workflow.run()
    finally:
        workflow.finalize()
