# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the command line does, as functions: each runs a workflow of a bundle with overrides."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from monai_dpmm_ad.bundle import SETTINGS, create_bundle, load_workflow
from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.files import write_json
from monai_dpmm_ad.scans import ScanFailure, write_failures

__all__ = ["Outcome", "absolute_paths", "check_device", "check_writable", "demo", "evaluate", "fit", "infer"]

PathLike = str | os.PathLike[str]

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
    """

    scans: list[Any] = field(default_factory=list)
    failures: list[ScanFailure] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    report: Path | None = None
    note: str | None = None


def fit(
    images: Sequence[PathLike], out: PathLike, held_out: Sequence[PathLike] | None = None, **overrides: Any
) -> Outcome:
    """Fit normal scans into a complete bundle.

    Args:
        images: where the normal scans are: see :func:`~monai_dpmm_ad.datalist.resolve_datalist`.
        out: folder of the bundle; an interrupted fit continues there.
        held_out: healthy scans to validate and calibrate on; None splits off subjects.
        overrides: values of ids in ``configs/train.json``.
    """
    check_device(overrides)
    _make_absolute(overrides, "regions")
    bundle = create_bundle(out)
    check_writable(bundle)
    workflow = load_workflow(
        bundle,
        ["train"],
        "train",
        dataset_dir=absolute_paths(images),
        validation_dir=absolute_paths(held_out) if held_out else None,
        **overrides,
    )
    _run(workflow)
    get = workflow.parser.get_parsed_content
    failures = [*get("train#dataset").failures, *get("validate#dataset").failures, *get("calibrate#evaluator").failures]
    failures = list(dict.fromkeys(failures))
    write_failures(bundle, failures)
    return Outcome(failures=failures)


def infer(
    bundle: PathLike, images: Sequence[PathLike], out: PathLike, report: bool = True, **overrides: Any
) -> Outcome:
    """Draw the anomaly map and mask of every scan, with tables and a report.

    Args:
        bundle: folder of a fitted bundle.
        images: where the scans are.
        out: folder of the outputs.
        report: whether to write ``report.html``, where the `report` extra is installed.
        overrides: values of ids in ``configs/inference.json``.
    """
    return _run_scans(bundle, ["inference"], images, out, report, overrides)


def evaluate(
    bundle: PathLike, data: Sequence[PathLike], out: PathLike, report: bool = True, **overrides: Any
) -> Outcome:
    """Do what `infer` does and write ``metrics.json`` and ``metrics.csv`` beside it.

    Args:
        bundle: folder of a fitted bundle.
        data: scans with their masks (``label``) or classes.
        out: folder of the outputs.
        report: as for `infer`.
        overrides: values of ids in the configs.
    """
    return _run_scans(bundle, ["inference", "evaluate"], data, out, report, overrides)


def demo(out: PathLike, seed: int = 0) -> Outcome:
    """Make a cohort of phantoms with lesions, fit the healthy ones, evaluate the others, write the report.

    Args:
        out: folder for ``cohort/``, ``bundle/`` and ``results/``.
        seed: of the cohort and the fit.
    """
    from monai_dpmm_ad.phantoms import write_cohort

    out = Path(out)
    datalist = write_cohort(out / "cohort", seed=seed)
    fit([datalist], out / "bundle", seed=seed)
    return evaluate(out / "bundle", [datalist], out / "results")


def _run_scans(
    bundle: PathLike, configs: list[str], images: Sequence[PathLike], out: PathLike, report: bool, overrides: Any
) -> Outcome:
    check_device(overrides)
    _make_absolute(overrides, "regions")
    out = Path(out).absolute()
    check_writable(out)
    workflow = load_workflow(
        bundle, configs, "inference", dataset_dir=absolute_paths(images), output_dir=str(out), **overrides
    )
    get = workflow.parser.get_parsed_content
    if overrides.get("regions") and not get("num_regions"):
        raise ValueError(
            f"`regions` must be given to a bundle that was fitted with them, got {bundle}. Fit with --regions."
        )
    _run(workflow)
    from monai_dpmm_ad.handlers import ScanTable

    table = next(handler for handler in workflow.handlers if isinstance(handler, ScanTable))
    metrics = get("metrics") if "evaluate" in configs else None
    outcome = Outcome(table.rows, workflow.evaluator.failures)
    outcome.note = _judge_calibration(workflow.network_def.calibration, get("false_positive_rate"))
    if metrics is not None:
        outcome.metrics = metrics.figures
        write_json(out / "metrics.json", metrics.figures)
    if report and table.rows and not find_spec("matplotlib"):
        outcome.note = "; ".join(filter(None, [outcome.note, NO_REPORT]))
    elif report and table.rows:
        from monai_dpmm_ad.reporting.workflow import report_scans

        settings = {name: get(name) for name in SETTINGS}
        outcome.report = report_scans(out, table.rows, get("datalist"), workflow.network_def, settings, metrics)
    return outcome


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


def absolute_paths(paths: Sequence[PathLike]) -> list[str]:
    """Make paths absolute, so that no name can be read as an expression of the config."""
    return [str(Path(path).absolute()) for path in paths]


def _make_absolute(overrides: dict[str, Any], name: str) -> None:
    if overrides.get(name) is not None:
        overrides[name] = str(Path(overrides[name]).absolute())


def check_device(overrides: Mapping[str, Any]) -> None:
    """Check that this machine has the device that the overrides name.

    Raises:
        ValueError: when it has not.
    """
    try:
        torch.empty(0, device=overrides.get("device", "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"`device` must be one that this machine has, got '{overrides['device']}'. Try cpu."
        ) from error


def check_writable(folder: Path) -> None:
    """Find out before the long work whether results can be written at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".partial-", dir=folder) as file:
        file.write(bytes(4096))
