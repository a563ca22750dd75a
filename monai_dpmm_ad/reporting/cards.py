# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The report's picture, regions and viewer of each scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers.regions import Region
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
from monai_dpmm_ad.reporting.text import count_decimals, format_p_value

__all__ = ["MAX_REGIONS", "ScanPictures", "describe_card", "prepare_scan"]

#: Regions of a scan that its card lists; all are in ``regions.csv``.
MAX_REGIONS = 10
_THUMBNAIL_HEIGHT = 200  # pixels


@dataclass(frozen=True)
class ScanPictures:
    """What is kept of a scan once its files are closed, or why there is nothing.

    Args:
        summary: for the common colour scale.
        arrays: the slice that is seen without a click.
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
    # Eight bits are spent where colours differ; the colour scale ends below this for any cohort.
    highest = None if result.threshold is None else 5 * result.threshold
    places = [volumes.place(region.peak_voxel) for region in result.regions[:MAX_REGIONS]]
    return ScanPictures(
        summary=summarise_map(volumes.anomaly_map, result.threshold),
        arrays=cut_slices(volumes, choose_slices(volumes, 1, places), grey)[0],
        viewer=pack_viewer(volumes, grey, highest, places) if embed else None,
    )


def describe_card(
    result: ScanResult,
    pictures: ScanPictures,
    scale: ColourScale,
    calibration: ScoreCalibration | None,
    decimals: int,
) -> dict[str, Any]:
    """Describe one scan as ``report.html`` reads it.

    Args:
        result: the scan.
        pictures: from `prepare_scan`.
        scale: colours of all maps.
        calibration: for the side of the threshold.
        decimals: of scores.
    """
    limit = None if calibration is None else calibration.threshold
    card: dict[str, Any] = {
        "name": result.name,
        "facts": _list_facts(result, decimals),
        "above": None if limit is None else result.score > limit,
        "warning": result.warning,
        "problem": pictures.problem,
        "regions": _list_regions(result.regions[:MAX_REGIONS]),
        "omitted": len(result.regions[MAX_REGIONS:]),
        "viewer": pictures.viewer,
    }
    if pictures.arrays is not None:
        place = pictures.arrays.place
        card |= {"panels": _choose_panels(pictures.arrays, scale), "place": place, "sided": bool(place)}
    return card


def _list_facts(result: ScanResult, decimals: int) -> list[tuple[str, str]]:
    """Name and value of what is known of a scan."""
    facts = [("score", f"{result.score:.{decimals}f}")]
    if result.p_value is not None:
        least = result.smallest_p_value
        limit = "" if least is None else f" (smallest possible: {format_p_value(least)})"
        facts.append(("p", f"{format_p_value(result.p_value, result.in_range)}{limit}"))
    if result.num_regions is not None:
        facts.append(("flagged regions", str(result.num_regions)))
    if result.region_p_value is not None:
        facts.append(("smallest region p", format_p_value(result.region_p_value, result.in_range)))
    if result.volume_ml is not None:
        facts.append(("flagged", f"{result.volume_ml:.2f} mL"))
    if result.placed is not None:
        facts.append(("frame", result.placed))
    if result.person is not None:
        facts.append(("judged as", result.person))
    if result.abnormal is not None:
        facts.append(("truth", "abnormal" if result.abnormal else "healthy"))
    return facts


def _list_regions(regions: Sequence[Region]) -> dict[str, Any]:
    """Heads and rows of a scan's table; a column of which nothing is known is left out."""
    decimals = count_decimals(region.peak_score for region in regions)
    columns: dict[str, list[str | None]] = {
        "Region": [str(region.index) for region in regions],
        "p-value": [
            None if region.p_value is None else format_p_value(region.p_value, region.in_range) for region in regions
        ],
        "Size": [_format_size(region) for region in regions],
        "Peak": [f"{region.peak_score:.{decimals}f}" for region in regions],
        "Centre (mm)" if all(region.unit == "mm3" for region in regions) else "Centre": [
            _format_place(region) for region in regions
        ],
        "Anatomy": [region.anatomy for region in regions],
    }
    known = {head: cells for head, cells in columns.items() if any(cell is not None for cell in cells)}
    return {"heads": list(known), "rows": [[cell or "–" for cell in row] for row in zip(*known.values(), strict=True)]}


def _format_size(region: Region) -> str:
    return f"{region.size / 1000:.2f} mL" if region.unit == "mm3" else f"{region.size:.0f} pixels"


def _format_place(region: Region) -> str:
    if region.unit == "mm3":
        return "{:.0f}, {:.0f}, {:.0f}".format(*region.centroid)
    column, row = region.centroid  # a picture's array has its columns first
    return f"row {row:.0f}, column {column:.0f}"


def _choose_panels(arrays: SliceArrays, scale: ColourScale) -> list[tuple[str, str]]:
    """Caption and picture of each panel; those of what is not known are left out."""
    elsewhere = " (none in this slice)" if arrays.label is not None and not arrays.label.any() else ""
    known = {
        "Scan": True,
        "Anomaly map": True,
        "Flagged": arrays.mask is not None,
        f"Truth{elsewhere}": arrays.label is not None,
    }
    panels = zip(known.items(), render_panels(arrays, scale, _THUMBNAIL_HEIGHT), strict=True)
    return [(caption, encode_picture(panel)) for (caption, show), panel in panels if show]
