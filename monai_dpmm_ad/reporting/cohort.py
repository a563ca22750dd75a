# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a finished inference or evaluation to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle.provenance import count_fitted
from monai_dpmm_ad.calibration.drift import describe_drift
from monai_dpmm_ad.data.dataset import ScanFailure
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers import ScanMetrics, ScanRow
from monai_dpmm_ad.handlers.regions import Region
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.reporting.html import write_report
from monai_dpmm_ad.reporting.results import ScanResult, ScoreCalibration
from monai_dpmm_ad.reporting.sheets import plot_overview
from monai_dpmm_ad.reporting.text import count_of, format_p_value
from monai_dpmm_ad.transforms import output_path
from monai_dpmm_ad.transforms.score import DEFAULT_RATE
from monai_dpmm_ad.utils.files import PathLike

__all__ = ["report_scans"]

OVERVIEW_SCANS, OVERVIEW_SLICES = 4, 3


def report_scans(
    folder: Path,
    rows: Sequence[ScanRow],
    items: Sequence[Mapping[str, Any]],
    network: AnomalyNet,
    settings: Mapping[str, Any],
    metrics: ScanMetrics | None = None,
    drift: Mapping[str, Any] | None = None,
    regions: Mapping[str, Sequence[Region]] | None = None,
    bundle: PathLike | None = None,
    note: str | None = None,
    failures: Sequence[ScanFailure] = (),
) -> Path:
    """Write ``report.html`` and ``overview.png`` beside the maps that an evaluator saved.

    Args:
        folder: where the maps are.
        rows: one per processed scan.
        items: the datalist, for the labels.
        network: for calibration and component usage.
        settings: shown as a table.
        metrics: of an evaluation, None after plain inference.
        drift: what ``drift.json`` says; a warning where the scans differ from those of the calibration.
        regions: scan → its flagged regions.
        bundle: folder of the bundle; None leaves out what it says of itself.
        note: what the calibration can promise.
        failures: what could not be processed.

    Returns:
        Path of the report.
    """
    known, flagged = {item["name"]: item for item in items}, regions or {}
    results = [_result(folder, row, known.get(row.name, {}), flagged.get(row.name, ()), settings) for row in rows]
    scores = [float(score) for score in network.calibration.image_scores if score < float("inf")]
    path = write_report(
        folder / "report.html",
        results,
        metrics=metrics.figures if metrics else None,
        curves=metrics.metric.gathered.curves() if metrics else None,
        calibration=ScoreCalibration.at_rate(scores),
        component_usage=network.detector.component_weights(),
        settings={**settings, "fitted": network.describe()},
        asked=_describe_question(network, settings, bundle),
        warning=describe_drift(drift),
        note=note,
        failures=failures,
    )
    shown = sorted(results, key=lambda result: (not result.abnormal, -result.score))[:OVERVIEW_SCANS]
    with suppress(ScanError):  # no scan can be read any more; the report says why
        plot_overview(folder / "overview.png", shown, num_slices=OVERVIEW_SLICES)
    return path


def _describe_question(network: AnomalyNet, settings: Mapping[str, Any], bundle: PathLike | None) -> dict[str, str]:
    """What was asked, and of what, in the order of the report's first lines."""
    calibration = network.calibration
    asked = {"Date": date.today().isoformat()}
    if bundle is not None:
        asked["Bundle"] = Path(bundle).absolute().name
        if fitted := count_fitted(bundle):
            asked["Fitted on"] = count_of(fitted, "scan")
    asked["Detector"] = f"{settings['detector_name']} on {settings['embedder_name']}, {settings['image_size']} pixels"
    if calibration.fitted:
        number = int(calibration.num_scans)
        if calibration.held_out:
            asked["Calibrated on"] = count_of(number, "held-out healthy scan")
        else:
            fitted_too = f"that {'was' if number == 1 else 'were'} also fitted"
            own = f"of {settings['site']}, judged by one another" if settings["site"] else fitted_too
            asked["Calibrated on"] = f"{count_of(number, 'scan')} {own}"
        asked["Smallest possible p"] = format_p_value(1 / (number + 1))
    rate = settings["false_positive_rate"]
    if rate is None and network.regions.fitted:
        asked["Flagged"] = f"regions, {settings['false_regions']:g} expected in a healthy scan"
    elif calibration.fitted:
        asked["Flagged"] = f"{100 * (rate or DEFAULT_RATE):g} % of healthy voxels"
    return asked


def _result(
    folder: Path, row: ScanRow, item: Mapping[str, Any], regions: Sequence[Region], settings: Mapping[str, Any]
) -> ScanResult:
    locate = partial(output_path, folder, row.name, source=row.image)
    place = {"ext": settings["output_ext"], "separate": settings["separate_folder"]}
    healthy = locate("healthy", **place)
    return ScanResult(
        name=row.name,
        image=item.get("image", row.image),
        channel=next((part.get("channel") for part in item.get("sequences", {}).values() if part), None),
        anomaly_map=locate(settings["output_postfix"], **place),
        mask=locate("mask", **place),
        label=item.get("label"),
        healthy=healthy if settings["healthy_twin"] and healthy.is_file() else None,
        warning=row.warning,
        smallest_p_value=row.smallest_p_value,
        score=row.score,
        p_value=row.p_value,
        threshold=row.threshold,
        num_regions=row.num_regions,
        volume_ml=row.flagged if row.flagged_unit == "mL" else None,
        abnormal=None if row.abnormal is None else bool(row.abnormal),
        regions=regions,
        frame=row.frame,
        frame_quality=row.frame_quality,
        in_range=row.in_range,
        person=row.covariates if row.group is None else f"{row.covariates}, among {row.group}",
    )
