# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""One picture of what changed: both visits and the change of several people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.data.paths import MAKER
from monai_dpmm_ad.handlers.changes import ChangedRegion
from monai_dpmm_ad.normative.change import CHANGE_THRESHOLD, Change
from monai_dpmm_ad.reporting.sheets import shorten
from monai_dpmm_ad.utils.files import PathLike, replace_file

__all__ = ["MOST_SHOWN", "plot_changes"]

MOST_SHOWN = 8  # people that one picture shows
_DPI = 110


def plot_changes(path: PathLike, pairs: Sequence[tuple[str, Change, Sequence[ChangedRegion], bool | None]]) -> Path:
    """Draw the axial slice of each person's first changed region: first visit, second visit, change over it.

    Red is more unusual than before, blue less.

    Args:
        path: the PNG to write.
        pairs: name, change, its regions, and False where a visit lies outside of what was fitted; eight are shown.
    """
    from matplotlib.figure import Figure

    shown = pairs[:MOST_SHOWN]
    figure = Figure(figsize=(9, 3.2 * len(shown)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(shown), 3, squeeze=False)
    for row, (name, change, regions, in_range) in zip(axes, shown, strict=True):
        plane = _choose_plane(change, regions)
        top = float(np.quantile(change.images[0][change.images[0] > 0], 0.995))
        for axis, image in zip(row, (*change.images, change.images[1]), strict=True):
            axis.imshow(_cut(image, plane), cmap="gray", vmin=0, vmax=top)
            axis.set_axis_off()
        values = _cut(change.change, plane)
        hidden = np.ma.masked_where(np.abs(values) < CHANGE_THRESHOLD, values)
        row[2].imshow(hidden, cmap="coolwarm", vmin=-10, vmax=10)
        counts = ", ".join(
            f"{sum(one.kind == kind for one in regions)} {kind}" for kind in ("new", "grown", "shrunk", "gone")
        )
        if in_range is False:
            counts += "; outside of what was fitted"
        titles = (f"{shorten(name)}, first visit", "second visit", counts)
        for axis, title in zip(row, titles, strict=True):
            axis.set_title(title, fontsize=8, loc="left", parse_math=False)
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, metadata={"Software": MAKER}))
    return Path(path)


def _choose_plane(change: Change, regions: Sequence[ChangedRegion]) -> int:
    if regions:
        return int(regions[0].region.peak_voxel[2])
    return change.change.shape[2] // 2


def _cut(values: NDArray[np.float32], plane: int) -> NDArray[np.float32]:
    """An axial slice as radiologists look at it: the patient's right is left, the front is up."""
    return values[::-1, ::-1, plane].T
