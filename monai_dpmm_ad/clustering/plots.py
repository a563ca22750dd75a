# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Plots of groups of instances: a sheet of the most typical ones, and the tree that joins all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from monai_dpmm_ad.clustering.instances import Thumbnail
from monai_dpmm_ad.data.paths import MAKER
from monai_dpmm_ad.reporting.charts import GREY
from monai_dpmm_ad.reporting.colours import (
    SliceArrays,
    make_colour_scale,
    render_panels,
    summarise_map,
    window_scan,
)
from monai_dpmm_ad.reporting.sheets import shorten
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import replace_file

__all__ = ["plot_dendrogram", "plot_group"]

_COLUMNS = 4
_HEIGHT = 220  # pixels of a picture
_DPI = 110
_LEAVES = 60  # more are not told apart: the tree is cut there

#: Okabe and Ito's colours, told apart in all common colour blindness; the group's number stands at each leaf too.
_GROUPS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot_group(
    path: Path, title: str, members: Sequence[tuple[str, Thumbnail]], everything: Sequence[Thumbnail]
) -> Path:
    """Plot the most typical instances of a group, each as scan and as map over scan; a region is outlined.

    Args:
        path: the PNG to write.
        title: above the sheet.
        members: caption and thumbnail of each instance that is shown.
        everything: thumbnails of all instances, which share one colour scale.

    Returns:
        The path.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    import_extra("matplotlib", "report")
    from matplotlib.figure import Figure

    scale = make_colour_scale([summarise_map(thumbnail.anomaly_map, None) for thumbnail in everything])
    columns = min(_COLUMNS, len(members))
    rows = math.ceil(len(members) / columns)
    side = _HEIGHT / _DPI
    figure = Figure(figsize=(columns * 2 * side, rows * (side + 0.45) + 0.4), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (caption, thumbnail) in zip(axes.flat, members, strict=False):
        arrays = SliceArrays(
            window_scan(thumbnail.scan), thumbnail.anomaly_map, mask=None, label=thumbnail.mask, spacing=(1.0, 1.0)
        )
        axis.imshow(np.concatenate(render_panels(arrays, scale, _HEIGHT)[:2], axis=1), interpolation="none")
        lines = [shorten(line, 48) for line in caption.split("\n")]
        axis.set_title("\n".join(lines), fontsize=7, loc="left", parse_math=False)
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, metadata={"Software": MAKER}))
    return path


def plot_dendrogram(path: Path, merges: NDArray[np.float64], names: Sequence[str], labels: NDArray[np.int64]) -> Path:
    """Plot the tree of all instances; leaves carry the group's number, and branches within a group its colour.

    Args:
        path: the PNG to write.
        merges: (n − 1, 4), scipy's form.
        names: of the n instances.
        labels: (n,), groups from 0.

    Returns:
        The path.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    import_extra("matplotlib", "report")
    from matplotlib.figure import Figure

    groups = _groups_of_nodes(merges, labels)
    leaves = min(len(names), _LEAVES)
    figure = Figure(figsize=(max(6.0, 0.2 * leaves + 2), 5), dpi=_DPI)
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    sizes = np.concatenate([np.ones(len(names)), merges[:, 3]]).astype(int)

    def describe(node: int) -> str:
        group = f"{groups[node] + 1}: " if groups[node] >= 0 else ""
        return group + (shorten(names[node], 24) if node < len(names) else f"{sizes[node]} items")

    dendrogram(
        merges,
        ax=axis,
        p=_LEAVES,
        truncate_mode="lastp" if len(names) > _LEAVES else None,
        leaf_label_func=describe,
        leaf_rotation=90,
        leaf_font_size=7,
        link_color_func=lambda node: _GROUPS[groups[node] % len(_GROUPS)] if groups[node] >= 0 else GREY,
    )
    for label in axis.get_xticklabels():
        label.set_parse_math(False)
    axis.set_ylabel("distance")
    axis.spines[["top", "right"]].set_visible(False)
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, metadata={"Software": MAKER}))
    return path


def _groups_of_nodes(merges: NDArray[np.float64], labels: NDArray[np.int64]) -> list[int]:
    """The group of each node of the tree, −1 where it joins several."""
    groups = [int(label) for label in labels]
    for left, right in merges[:, :2].astype(int):
        groups.append(groups[left] if groups[left] == groups[right] else -1)
    return groups
