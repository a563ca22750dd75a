# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The report's picture and viewer of each scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.reporting.colours import (
    ColourScale,
    MapSummary,
    SliceArrays,
    render_panels,
    summarise_map,
    window_scan,
)
from monai_dpmm_ad.reporting.results import ScanResult, ScoreCalibration
from monai_dpmm_ad.reporting.slices import choose_slices, cut_slices
from monai_dpmm_ad.reporting.sprites import encode_picture, pack_viewer
from monai_dpmm_ad.reporting.text import format_number, to_script

__all__ = ["ScanPictures", "describe_scan", "prepare_scan", "render_card"]

_THUMBNAIL_HEIGHT = 200  # pixels
_CLASSES = {2: "thumbnails few", 3: "thumbnails three", 4: "thumbnails"}


@dataclass(frozen=True)
class ScanPictures:
    """What is kept of a scan once its files are closed, or why there is nothing.

    Args:
        summary: for the common colour scale.
        arrays: the most anomalous slice.
        viewer: what the viewer unpacks, None where none is embedded.
        problem: why there are no pictures, None where there are.
    """

    summary: MapSummary | None = None
    arrays: SliceArrays | None = None
    viewer: dict[str, Any] | None = None
    problem: str | None = None


def prepare_scan(result: ScanResult, embed: bool) -> ScanPictures:
    """Read one scan and keep what the report shows of it.

    Args:
        result: the scan.
        embed: whether to embed the viewer.
    """
    from monai_dpmm_ad.reporting.volumes import read_volumes

    try:
        volumes = read_volumes(result)
    except ScanError as error:
        return ScanPictures(problem=str(error))
    grey = window_scan(volumes.scan)
    summary = summarise_map(volumes.anomaly_map, result.threshold)
    threshold = result.threshold
    # Eight bits are spent where colours differ; the colour scale ends below this for any cohort.
    highest = None if threshold is None else 5 * threshold
    index = choose_slices(volumes, 1)[0]
    return ScanPictures(
        summary=summary,
        arrays=cut_slices(volumes, [index], grey)[0],
        viewer=pack_viewer(volumes, grey, highest) if embed else None,
    )


def describe_scan(result: ScanResult, calibration: ScoreCalibration | None) -> str:
    """Return the line of facts under a scan's name, as HTML."""
    facts = [f"score <b>{format_number(result.score)}</b>"]
    if result.p_value is not None:
        least = result.smallest_p_value
        limit = "" if least is None else f" (not below {format_number(least, 2)})"
        facts.append(f"p <b>{format_number(result.p_value, 2)}</b>{limit}")
    if result.volume_ml is not None:
        facts.append(f"flagged <b>{format_number(result.volume_ml, 3)} mL</b>")
    if result.num_regions is not None:
        facts.append(f"<b>{result.num_regions}</b> region{'' if result.num_regions == 1 else 's'}")
    if result.abnormal is not None:
        facts.append(f"truth <b>{'abnormal' if result.abnormal else 'healthy'}</b>")
    return " · ".join(facts) + render_badge(result, calibration)


def render_badge(result: ScanResult, calibration: ScoreCalibration | None) -> str:
    """Return a badge that says on which side of the threshold a scan is, empty where there is no threshold."""
    if calibration is None or calibration.threshold is None:
        return ""
    above = result.score > calibration.threshold
    return f' <span class="badge {"high" if above else "low"}">{"above" if above else "below"} threshold</span>'


def render_card(
    number: int,
    result: ScanResult,
    pictures: ScanPictures,
    scale: ColourScale,
    calibration: ScoreCalibration | None,
) -> str:
    """Render one scan: its name and facts, the picture seen without a click, and the closed viewer.

    Args:
        number: identifies the card.
        result: the scan.
        pictures: from `prepare_scan`.
        scale: colours of all maps.
        calibration: for the badge.

    Returns:
        HTML in which all text from files is escaped.
    """
    parts = [
        f'<article class="card" id="scan-{number}"><h3>{escape(result.name)}</h3>',
        f'<p class="facts">{describe_scan(result, calibration)}</p>',
    ]
    if result.warning:
        parts.append(f'<p class="warning">{escape(result.warning)}.</p>')
    if pictures.arrays is None:
        parts.append(f'<p class="small">No picture: {escape(pictures.problem or "")}.</p></article>')
        return "".join(parts)
    panels, captions = _choose_panels(render_panels(pictures.arrays, scale, _THUMBNAIL_HEIGHT), pictures.arrays)
    alternative = f"{result.name} {pictures.arrays.place}: {', '.join(captions)}"
    sides = ""
    if pictures.arrays.place:
        captions[0] = f"Scan, {pictures.arrays.place}"
        sides = f'<b style="left:6px">R</b><b style="left:calc({100 / len(captions):.4g}% - 1.2em)">L</b>'
    spans = "".join(f"<span>{caption}</span>" for caption in captions)
    parts.append(
        f'<div class="{_CLASSES[len(captions)]}"><img src="{encode_picture(np.concatenate(panels, axis=1))}" '
        f'alt="{escape(alternative, quote=True)}" decoding="async">{spans}{sides}</div>'
    )
    if pictures.viewer is not None:
        parts.append(
            '<details><summary>Explore in three planes</summary><div class="viewer"></div></details>'
            if pictures.viewer["size"][0] > 1
            else '<details><summary>Explore</summary><div class="viewer"></div></details>'
        )
        parts.append(f'<script type="application/json" class="scan-data">{to_script(pictures.viewer)}</script>')
    parts.append("</article>\n")
    return "".join(parts)


def _choose_panels(panels: Sequence[Any], arrays: SliceArrays) -> tuple[list[Any], list[str]]:
    """Leave out the panels of what is not known, with a thin black gap between the others."""
    known = [("Scan", True), ("Anomaly map", True), ("Mask", arrays.mask is not None)]
    elsewhere = " (none in this slice)" if arrays.label is not None and not arrays.label.any() else ""
    known.append((f"Truth{elsewhere}", arrays.label is not None))
    gap = np.zeros((_THUMBNAIL_HEIGHT, 2, 3), np.uint8)
    shown = [(np.concatenate([panel, gap], 1), name) for panel, (name, show) in zip(panels, known, strict=True) if show]
    return [panel for panel, _ in shown], [name for _, name in shown]
