# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The report: one HTML file that needs no network and shows a cohort at a glance."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.data.paths import PICTURE_SUFFIXES, has_suffix
from monai_dpmm_ad.reporting.cards import MAX_REGIONS, ScanPictures, describe_card, prepare_scan
from monai_dpmm_ad.reporting.charts import plot_calibration, plot_components, plot_curve, pretty_name
from monai_dpmm_ad.reporting.colours import ColourScale, colour_table, make_colour_scale
from monai_dpmm_ad.reporting.results import ScanResult, ScoreCalibration
from monai_dpmm_ad.reporting.text import count_decimals, count_of, flatten, format_p_value, format_setting
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import PathLike, replace_file
from monai_dpmm_ad.utils.text import printable

if TYPE_CHECKING:
    from monai_dpmm_ad.data.dataset import ScanFailure
    from monai_dpmm_ad.metrics import Curve

__all__ = ["write_report"]

_VERSIONED = ("torch", "monai", "transformers", "pyro-ppl", "pytorch-ignite", "numpy", "nibabel")
#: Heading, its value, and whether a first click sorts the largest first. A column without values is left out.
_COLUMNS: tuple[tuple[str, Callable[[ScanResult], Any], bool], ...] = (
    ("Scan", lambda result: result.name, False),
    ("Score", lambda result: result.score, True),
    ("p-value", lambda result: result.p_value, False),
    ("Regions", lambda result: result.num_regions, True),
    ("Region p", lambda result: result.region_p_value, False),
    ("Flagged (mL)", lambda result: result.volume_ml, True),
    ("Frame", lambda result: result.placed, False),
    ("Warning", lambda result: result.warning, False),
    ("Truth", lambda result: None if result.abnormal is None else ("healthy", "abnormal")[result.abnormal], False),
)
_WORDS = {
    "Score": "how unusual a scan is as a whole; higher is more unusual. Compare scores of one bundle only.",
    "p-value": "share of healthy scans, this one counted among them, that look at least as unusual. Small is unusual: "
    "of healthy scans at most 5 % get 0.05 or less. A region is compared with the largest one of each healthy scan. "
    "With a question mark it is not promised, since the scan is unlike those that were fitted: see its warning.",
    "Percentile": "per cent of healthy voxels that are less unusual than this one.",
    "Flagged region": "connected voxels whose map exceeds the threshold. Unusual, which need not mean diseased.",
    "Centre": "of a region, in mm of the scanner's space as NIfTI has it: x to the patient's right, y to the front, "
    "z to the head. DICOM's x and y have the other sign. 'Go to' leads to the region's highest value.",
    "Frame": "how a scan was brought to the place of the fitted ones; its quality is a correlation, 1 is perfect.",
    "AUROC": "how often something abnormal scores higher than something healthy: 0.5 is guessing, 1 is perfect.",
    "FROC": "share of the true lesions that are found, against falsely flagged regions in a scan.",
}


def write_report(
    path: PathLike,
    results: Sequence[ScanResult],
    *,
    metrics: Mapping[str, Any] | None = None,
    curves: Mapping[str, Curve] | None = None,
    calibration: ScoreCalibration | None = None,
    component_usage: Sequence[float] | None = None,
    settings: Mapping[str, Any] | None = None,
    asked: Mapping[str, str] | None = None,
    warning: str | None = None,
    note: str | None = None,
    failures: Sequence[ScanFailure] = (),
    title: str = "Anomaly report",
    max_viewers: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the report of a cohort as one self-contained HTML file, in the order in which people read.

    What was asked and of what; a table that sorts by any column; for each scan a picture of the slice with its first
    region (scan, map, mask, truth), its regions, and a viewer of three planes; then metrics, curves, calibration and
    component usage, settings and versions. All maps share one colour scale with the threshold at its middle. One scan
    is in memory at a time; a scan whose files cannot be read keeps its row and says why it has no picture. The same
    input gives the same bytes.

    Args:
        path: the file to write.
        results: the scans.
        metrics: as in ``metrics.json``: numbers, and intervals under ``KEY_ci``.
        curves: as `AnomalyMetrics.curves` gives them.
        calibration: healthy scores and threshold.
        component_usage: weights of the mixture's components, in any order.
        settings: shown as a table; may be nested.
        asked: facts that stand first, such as date and bundle: name → text.
        warning: a sentence that stands before the findings.
        note: one that stands behind it: what the numbers can promise.
        failures: scans that could not be processed, with their reasons.
        title: of the page.
        max_viewers: embed the viewer of so many scans, those with the highest scores (about 0.2 MB each); the others
            have their picture only.
        progress: called with the number of scans read and their total after each scan.

    Returns:
        The path.

    Raises:
        ImportError: when matplotlib or Jinja is not installed.
        OSError: when the file cannot be written.
    """
    import_extra("matplotlib", "report")
    ordered = sorted(results, key=lambda result: (-result.score, result.name))
    pictures: list[ScanPictures] = []
    for number, result in enumerate(ordered):
        pictures.append(prepare_scan(result, embed=number < max_viewers))
        if progress is not None:
            progress(number + 1, len(ordered))
    scale = make_colour_scale([picture.summary for picture in pictures if picture.summary is not None])
    decimals = count_decimals(result.score for result in ordered)
    model = {}
    if calibration is not None and ordered:
        model["Calibration: scan scores"] = plot_calibration(calibration, ordered)
    if component_usage is not None and len(component_usage):
        model["Mixture: component usage"] = plot_components(component_usage)
    page = _render(
        title=title,
        asked=dict(asked or {}),
        summary=_summarise(ordered, calibration, len(failures)),
        warning=warning,
        note=note,
        failures=[[printable(text) for text in (one.name, one.path, one.reason)] for one in failures],
        table=_list_scans(ordered, decimals),
        words=_WORDS,
        scale=scale,
        has_mask=any(result.mask is not None for result in ordered),
        has_truth=any(result.label is not None for result in ordered),
        is_sided=not all(_is_picture(result) for result in ordered),
        max_regions=MAX_REGIONS,
        max_viewers=max_viewers if len(ordered) > max_viewers else None,
        cards=[
            describe_card(result, picture, scale, calibration, decimals)
            for result, picture in zip(ordered, pictures, strict=True)
        ],
        metrics=_list_metrics(metrics),
        curves={pretty_name(name): plot_curve(name, curve) for name, curve in (curves or {}).items()},
        model=model,
        settings=_list_settings(settings),
    )
    replace_file(path, lambda temporary: temporary.write_text(page, encoding="utf-8", errors="backslashreplace"))
    return Path(path)


def _render(scale: ColourScale, **content: Any) -> str:
    """Fill ``report.html``; whatever comes from files is escaped."""
    jinja = import_extra("jinja2", "report")
    files = resources.files("monai_dpmm_ad.reporting")
    template, style, script = ((files / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    page: str = environment.from_string(template).render(
        **content,
        version=__version__,
        style=style,
        script=script,
        # Only this script may run: whatever else got into the page stays text.
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        scale=scale,
        digits=count_decimals([scale.high], digits=3),
        stops=[f"rgb({red},{green},{blue})" for red, green, blue in colour_table()[::15]],
        data={
            "scale": {"low": scale.low, "middle": scale.middle, "high": scale.high, "threshold": scale.threshold},
            "colours": base64.b64encode(colour_table().tobytes()).decode(),
        },
    )
    return page


def _is_picture(result: ScanResult) -> bool:
    return isinstance(result.image, (str, os.PathLike)) and has_suffix(result.image, PICTURE_SUFFIXES)


def _summarise(results: Sequence[ScanResult], calibration: ScoreCalibration | None, num_failures: int) -> str:
    parts = [count_of(len(results), "scan")]
    if num_failures:
        parts.append(f"{num_failures} more failed")
    if calibration is not None and calibration.threshold is not None:
        above = sum(result.score > calibration.threshold for result in results)
        rate = "" if calibration.rate is None else f" (set to flag {100 * calibration.rate:g} % of healthy scans)"
        parts.append(f"{above} above the threshold{rate}")
    if outside := sum(result.in_range is False for result in results):
        parts.append(f"{outside} outside of what was fitted, whose p-values are not promised")
    known = [r.region_p_value for r in results if r.region_p_value is not None and r.in_range is not False]
    least = min((result.smallest_p_value for result in results if result.smallest_p_value is not None), default=0.0)
    if known and least <= 0.05:  # else so few healthy scans calibrate that none could be
        parts.append(f"{sum(value <= 0.05 for value in known)} with a region whose p-value is 0.05 or less")
    return ", ".join(parts)


def _list_scans(results: Sequence[ScanResult], decimals: int) -> dict[str, Any]:
    """Heads and rows of the table of scans."""
    columns = [
        column
        for index, column in enumerate(_COLUMNS)
        if index < 2 or any(column[1](result) is not None for result in results)
    ]

    def cell(result: ScanResult, name: str, value: Any) -> dict[str, Any]:
        shown = "–" if value is None else str(value)
        if isinstance(value, float):
            is_p = name.endswith(("p", "p-value"))
            shown = format_p_value(value, result.in_range) if is_p else f"{value:.2f}"
        if name == "Score":
            shown = f"{value:.{decimals}f}"
        return {"shown": shown, "sort": "" if value is None else value, "is_text": isinstance(value, str)}

    heads = [{"name": name, "hint": _WORDS.get(name), "falling": falling} for name, _, falling in columns]
    rows = [[cell(result, name, value(result)) for name, value, _ in columns] for result in results]
    return {"heads": heads, "rows": rows}


def _list_metrics(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metrics over the whole field and inside the foreground, one pair of cells a row; a cell is value and interval."""
    flat = flatten(metrics or {})
    names = [key for key in flat if not key.endswith("_ci") and isinstance(flat[key], (int, float))]

    def cell(key: str) -> tuple[str, str]:
        if key not in flat:
            return "–", ""
        low_high = flat.get(f"{key}_ci") or ()
        return f"{flat[key]:.3f}", " to ".join(f"{end:.3f}" for end in low_high)

    both = any(key.endswith("_foreground") for key in names)
    suffixes = ("", "_foreground") if both else ("",)
    bases = dict.fromkeys(key.removesuffix("_foreground") for key in names)
    return {"both": both, "rows": [(pretty_name(base), [cell(base + suffix) for suffix in suffixes]) for base in bases]}


def _list_settings(settings: Mapping[str, Any] | None) -> dict[str, str]:
    rows = {str(key): format_setting(value) for key, value in flatten(settings or {}).items()}
    rows |= {"monai-dpmm-ad": __version__, "python": platform.python_version()}
    for package in _VERSIONED:
        try:
            rows[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return rows
