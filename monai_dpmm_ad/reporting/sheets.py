# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Contact sheets: scan, map, mask and truth of several slices as one PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monai_dpmm_ad.data.paths import MAKER
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.reporting.colours import (
    ColourScale,
    MapSummary,
    SliceArrays,
    colour_table,
    make_colour_scale,
    render_panels,
    summarise_map,
)
from monai_dpmm_ad.reporting.results import ScanResult
from monai_dpmm_ad.reporting.slices import choose_slices, cut_slices
from monai_dpmm_ad.reporting.volumes import read_volumes
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import PathLike, replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_overview", "shorten"]

_ROWS = ("Scan", "Anomaly map", "Mask", "Truth")
_PANEL_HEIGHT = 260  # pixels
_DPI = 130
_COLUMNS = 6  # scans that fit side by side share a row of blocks


def plot_overview(path: PathLike, results: Sequence[ScanResult], num_slices: int = 5) -> Path:
    """Write a contact sheet of several scans on one colour scale.

    Rows are scan, map over scan, mask and truth (left out where no scan has one); columns are slices. One scan is in
    memory at a time.

    Args:
        path: the PNG to write.
        results: the scans; those whose files cannot be read are left out.
        num_slices: number of axial slices of each.

    Returns:
        The path.

    Raises:
        ValueError: when there is no scan or no slice to show.
        ScanError: when no scan can be read.
        ImportError: when matplotlib is not installed.
    """
    if not results:
        raise ValueError("`results` must not be empty, got no scan. Give at least one.")
    if num_slices < 1:
        raise ValueError(f"`num_slices` must be at least 1, got {num_slices}. Give the number of slices per scan.")
    import_extra("matplotlib", "report")
    cuts: list[tuple[ScanResult, list[SliceArrays]]] = []
    summaries: list[MapSummary] = []
    problem: ScanError | None = None
    for result in results:
        try:
            summary, slices = _cut(result, num_slices)
        except ScanError as error:
            problem = error
            continue
        summaries.append(summary)
        cuts.append((result, slices))
    if problem is not None and not cuts:
        raise problem
    _plot(Path(path), cuts, make_colour_scale(summaries))
    return Path(path)


def _cut(result: ScanResult, num_slices: int) -> tuple[MapSummary, list[SliceArrays]]:
    volumes = read_volumes(result)
    places = [volumes.place(region.peak_voxel) for region in result.regions]
    slices = cut_slices(volumes, choose_slices(volumes, num_slices, places))
    return summarise_map(volumes.anomaly_map, result.threshold), slices


def _plot(path: Path, cuts: Sequence[tuple[ScanResult, list[SliceArrays]]], scale: ColourScale) -> None:
    from matplotlib.figure import Figure

    kinds = [0, 1]
    kinds += [2] if any(arrays.mask is not None for _, slices in cuts for arrays in slices) else []
    kinds += [3] if any(arrays.label is not None for _, slices in cuts for arrays in slices) else []
    widest = max(len(slices) for _, slices in cuts)
    per_block = max(1, min(len(cuts), _COLUMNS // widest))
    blocks = math.ceil(len(cuts) / per_block)
    columns = per_block * widest
    panel = _PANEL_HEIGHT / _DPI
    figure = Figure(figsize=(columns * panel * 0.88 + 1.5, blocks * (len(kinds) * panel + 0.45) + 0.25), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    pictures, bar = figure.subfigures(1, 2, width_ratios=[columns * panel * 0.88, 1.1], squeeze=False)[0]
    for block, part in enumerate(pictures.subfigures(blocks, 1, squeeze=False)[:, 0]):
        axes = part.subplots(len(kinds), columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for place, (result, slices) in enumerate(cuts[block * per_block : (block + 1) * per_block]):
            for offset, arrays in enumerate(slices):
                column = place * widest + offset
                panels = render_panels(arrays, scale, _PANEL_HEIGHT)
                for row, kind in enumerate(kinds):
                    axes[row, column].imshow(panels[kind], interpolation="none")
                title = arrays.place
                if arrays.place:  # a picture's sides are not known
                    for x, letter in ((0.02, "R"), (0.94, "L")):
                        axes[0, column].text(
                            x, 0.5, letter, color="white", fontsize=8, transform=axes[0, column].transAxes
                        )
                if offset == 0:
                    title = f"{shorten(result.name)}\nscore {result.score:.4g}" + (f", {title}" if title else "")
                axes[0, column].set_title(title, fontsize=8, loc="left", parse_math=False)
        for row, kind in enumerate(kinds):
            axes[row, 0].text(
                -0.03,
                0.5,
                _ROWS[kind],
                transform=axes[row, 0].transAxes,
                rotation=90,
                ha="right",
                va="center",
                fontsize=9,
            )
    _plot_bar(bar.add_axes((0.1, 0.3, 0.18, 0.4)), scale)
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, metadata={"Software": MAKER}))


def _plot_bar(axis: Axes, scale: ColourScale) -> None:
    axis.imshow(colour_table()[:, None, :], aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    middle = f"{scale.middle:.3g}" + ("\nthreshold" if scale.threshold is not None else "")
    axis.set_yticks([0, 0.5, 1], [f"{scale.low:.3g}", middle, f"{scale.high:.3g}"], fontsize=8)
    axis.yaxis.tick_right()
    axis.set_xticks([])


def shorten(name: str, length: int = 28) -> str:
    """Cut a name that is too long, with an ellipsis; what cannot be printed becomes a question mark."""
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= length else printable[: length - 1] + "…"
