# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The report: one HTML file that needs no network and shows a cohort at a glance."""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.data.paths import PICTURE_SUFFIXES, has_suffix
from monai_dpmm_ad.reporting.cards import ScanPictures, prepare_scan, render_card
from monai_dpmm_ad.reporting.charts import plot_calibration, plot_components, plot_curve, pretty_name
from monai_dpmm_ad.reporting.colours import ColourScale, colour_table, make_colour_scale
from monai_dpmm_ad.reporting.results import ScanResult, ScoreCalibration
from monai_dpmm_ad.reporting.text import flatten, format_number, to_script
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import PathLike, replace_file

if TYPE_CHECKING:
    from monai_dpmm_ad.metrics import Curve

__all__ = ["write_report"]

_VERSIONED = ("torch", "monai", "transformers", "pyro-ppl", "pytorch-ignite", "numpy", "nibabel")
# Heading, and whether a first click sorts the largest first. None of a column's values known: the column is left out.
_COLUMNS: tuple[tuple[str, Callable[[ScanResult], Any], bool], ...] = (
    ("Scan", lambda result: result.name, False),
    ("Score", lambda result: result.score, True),
    ("p-value", lambda result: result.p_value, False),
    ("Flagged (mL)", lambda result: result.volume_ml, True),
    ("Regions", lambda result: result.num_regions, True),
    ("Warning", lambda result: result.warning, False),
    ("Truth", lambda result: None if result.abnormal is None else ("healthy", "abnormal")[result.abnormal], False),
)
_SECTIONS = {"table": "Cohort", "metrics": "Metrics", "model": "Model", "curves": "Curves"}
_SECTIONS |= {"pictures": "Scans", "settings": "Settings"}
_VIEWER = """<template id="viewer-template"><div class="planes"></div><div class="controls">
<label>Map <input type="range" name="opacity" min="0" max="100" value="75"></label>
<label><input type="checkbox" name="mask" checked> mask</label>
<label><input type="checkbox" name="truth" checked> truth</label>
<label><input type="checkbox" name="cross" checked> crosshair</label>
<button type="button">Go to the peak</button><output></output></div></template>"""


def write_report(
    path: PathLike,
    results: Sequence[ScanResult],
    *,
    metrics: Mapping[str, Any] | None = None,
    curves: Mapping[str, Curve] | None = None,
    calibration: ScoreCalibration | None = None,
    component_usage: Sequence[float] | None = None,
    settings: Mapping[str, Any] | None = None,
    warning: str | None = None,
    note: str | None = None,
    title: str = "Anomaly report",
    max_viewers: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the report of a cohort as one self-contained HTML file.

    A table that sorts by any column; for each scan a picture of its most anomalous slice (scan, map, mask, truth) and
    a viewer of three planes; calibration, curves, metrics, component usage, settings and versions. All maps share one
    colour scale with the threshold at its middle. One scan is in memory at a time; a scan whose files cannot be read
    keeps its row and says why it has no picture. The same input gives the same bytes.

    Args:
        path: the file to write.
        results: the scans.
        metrics: as in ``metrics.json``: numbers, and intervals under ``KEY_ci``.
        curves: as `AnomalyMetrics.curves` gives them.
        calibration: healthy scores and threshold.
        component_usage: weights of the mixture's components, in any order.
        settings: shown as a table; may be nested.
        warning: a sentence that stands before everything else.
        note: one that stands behind it, what the numbers can promise.
        title: of the page.
        max_viewers: embed the viewer of so many scans, those with the highest scores (about 0.2 MB each); the others
            have their picture only.
        progress: called with the number of scans read and their total after each scan.

    Returns:
        The path.

    Raises:
        ImportError: when matplotlib is not installed.
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
    cards = [
        render_card(number, result, picture, scale, calibration)
        for number, (result, picture) in enumerate(zip(ordered, pictures, strict=True))
    ]
    sections = [
        f'<p class="warning" role="alert">Warning: {escape(warning)}.</p>' if warning else "",
        f"<p>Note: {escape(note)}.</p>" if note else "",
        _render_table(ordered),
        _render_metrics(metrics),
        _render_charts(ordered, curves, calibration, component_usage),
        f'<h2 id="pictures">Scans</h2>{_render_legend(ordered, scale)}',
        _tell_omitted(len(ordered), max_viewers),
        f'<div id="scans">{"".join(cards)}</div>',
        _render_settings(settings),
    ]
    page = _assemble(title, _summarise(ordered, calibration), "\n".join(filter(None, sections)), scale)
    replace_file(path, lambda temporary: temporary.write_text(page, encoding="utf-8", errors="backslashreplace"))
    return Path(path)


def _assemble(title: str, summary: str, content: str, scale: ColourScale) -> str:
    assets = resources.files("monai_dpmm_ad.reporting")
    script = (assets / "report.js").read_text(encoding="utf-8")
    style = (assets / "report.css").read_text(encoding="utf-8")
    # Only this script may run: whatever else got into the page stays text.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in _SECTIONS.items() if f' id="{key}"' in content)
    data = {
        "scale": {"low": scale.low, "middle": scale.middle, "high": scale.high, "threshold": scale.threshold},
        "colours": base64.b64encode(colour_table().tobytes()).decode(),
    }
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{style}</style></head>
<body><header><div><h1>{escape(title)}</h1>
<p class="lead">{summary}</p>
<p class="notice">Research software, not a medical device.</p>
<nav>{links}</nav></div></header>
<main>{content}
<footer>Written by monai_dpmm_ad {escape(__version__)}. Research software, not a medical device: not for diagnosis or
treatment decisions.</footer></main>
{_VIEWER}
<script type="application/json" id="page-data">{to_script(data)}</script>
<script>{script}</script></body></html>
"""


def _summarise(results: Sequence[ScanResult], calibration: ScoreCalibration | None) -> str:
    parts = [f"{len(results)} scan{'' if len(results) == 1 else 's'}"]
    if calibration is not None and calibration.threshold is not None:
        above = sum(result.score > calibration.threshold for result in results)
        rate = "" if calibration.rate is None else f" (set to flag {100 * calibration.rate:g} % of healthy scans)"
        parts.append(f"{above} above the threshold{rate}")
    return ", ".join(parts)


def _render_table(results: Sequence[ScanResult]) -> str:
    columns = [
        column
        for index, column in enumerate(_COLUMNS)
        if index < 2 or any(column[1](result) is not None for result in results)
    ]
    heads = "".join(
        f'<th scope="col"{" data-first=descending" if first else ""}'
        f'{" aria-sort=descending" if name == "Score" else ""}><button type="button">{name}</button></th>'
        for name, _, first in columns
    )
    rows = []
    for number, result in enumerate(results):
        cells = [
            f'<td data-kind="text" data-sort="{escape(result.name, quote=True)}">'
            f'<a href="#scan-{number}">{escape(result.name)}</a></td>'
        ]
        for name, value, _ in columns[1:]:
            cell = value(result)
            kind = "text" if isinstance(cell, str) else "number"
            shown = "–" if cell is None else escape(format_number(cell, 2 if name == "p-value" else 4))
            cells.append(f'<td data-kind="{kind}" data-sort="{"" if cell is None else escape(str(cell))}">{shown}</td>')
        rows.append(f'<tr data-card="scan-{number}">{"".join(cells)}</tr>')
    return f"""<h2 id="table">Cohort</h2><div class="panel">
<input type="search" id="filter" placeholder="Find a scan by name" aria-label="Find a scan by name">
<div class="scroll tall"><table id="cohort"><thead><tr>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div></div>"""


def _render_legend(results: Sequence[ScanResult], scale: ColourScale) -> str:
    stops = ",".join(f"rgb({red},{green},{blue})" for red, green, blue in colour_table()[::15])
    middle = f"{scale.middle:.3g}" + (" = threshold" if scale.threshold is not None else "")
    keys = ""
    if any(result.mask is not None for result in results):
        keys += '<span><i class="key"></i>flagged (map above threshold)</span>'
    if any(result.label is not None for result in results):
        keys += '<span><i class="key truth"></i>truth</span>'
    note = ""
    if not all(isinstance(result.image, str) and has_suffix(result.image, PICTURE_SUFFIXES) for result in results):
        note = "<span>Left of a scan is the patient's right. Each picture shows the most anomalous axial slice.</span>"
    return f"""<div class="legend"><div class="bar">
<div style="background:linear-gradient(90deg,{stops})"></div>
<p><span>{scale.low:.3g}</span><span>{middle}</span><span>{scale.high:.3g}</span></p></div>{keys}
{note}</div>"""


def _tell_omitted(count: int, max_viewers: int) -> str:
    if count <= max_viewers:
        return ""
    return f'<p class="small">The {max_viewers} scans with the highest scores can be explored, the others cannot.</p>'


def _render_metrics(metrics: Mapping[str, Any] | None) -> str:
    flat = flatten(metrics or {})
    names = [key for key in flat if not key.endswith("_ci") and isinstance(flat[key], (int, float))]
    bases = list(dict.fromkeys(key.removesuffix("_foreground") for key in names))
    if not bases:
        return ""
    both = any(key.endswith("_foreground") for key in names)

    def cell(key: str) -> str:
        if key not in flat:
            return "<td>–</td>"
        interval = flat.get(f"{key}_ci")
        text = f"<b>{flat[key]:.3f}</b>"
        if isinstance(interval, Sequence) and len(interval) == 2:
            text += f' <span class="small">{interval[0]:.3f} to {interval[1]:.3f}</span>'
        return f"<td>{text}</td>"

    heads = "<th>Metric</th><th>Whole field</th>" + ("<th>Inside the foreground</th>" if both else "")
    rows = "".join(
        f"<tr><td>{escape(pretty_name(base))}</td>{cell(base)}{cell(base + '_foreground') if both else ''}</tr>"
        for base in bases
    )
    return f"""<h2 id="metrics">Metrics</h2><div class="panel scroll">
<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>
<p class="small">Small: 95 % bootstrap interval over scans. A dash: the data lack what the figure needs.</p></div>"""


def _render_charts(
    results: Sequence[ScanResult],
    curves: Mapping[str, Curve] | None,
    calibration: ScoreCalibration | None,
    weights: Sequence[float] | None,
) -> str:
    model = []
    if calibration is not None and results:
        model.append(_figure("Calibration: scan scores", plot_calibration(calibration, results)))
    if weights is not None and len(weights):
        model.append(_figure("Mixture: component usage", plot_components(weights)))
    out = f'<h2 id="model">Model</h2><div class="charts wide">{"".join(model)}</div>' if model else ""
    if curves:
        figures = "".join(_figure(pretty_name(name), plot_curve(name, curve)) for name, curve in curves.items())
        out += f'<h2 id="curves">Curves</h2><div class="charts">{figures}</div>'
    return out


def _figure(caption: str, url: str) -> str:
    text = escape(caption)
    return f'<figure class="panel"><figcaption>{text}</figcaption><img src="{url}" alt="{text}"></figure>'


def _render_settings(settings: Mapping[str, Any] | None) -> str:
    rows = {str(key): str(value) for key, value in flatten(settings or {}).items()}
    rows |= {"monai-dpmm-ad": __version__, "python": platform.python_version()}
    for package in _VERSIONED:
        try:
            rows[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    cells = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in rows.items())
    table = f"<table><tbody>{cells}</tbody></table>"
    return f'<h2 id="settings">Settings and versions</h2><div class="panel settings">{table}</div>'
