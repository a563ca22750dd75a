# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""One colour scale for all scans of a report, and pictures of single slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from monai_dpmm_ad.utils.extras import import_extra

__all__ = [
    "LABEL_COLOUR",
    "MASK_COLOUR",
    "ColourScale",
    "MapSummary",
    "SliceArrays",
    "colour_table",
    "make_colour_scale",
    "render_panels",
    "summarise_map",
    "window_scan",
]

#: Yellow and sky blue stay apart in all common colour blindness, and on grey.
MASK_COLOUR, LABEL_COLOUR = (255, 221, 51), (64, 200, 255)
_FILL = 0.45  # opacity of a filled mask


@dataclass(frozen=True)
class MapSummary:
    """What the common colour scale needs of one map, in the map's unit."""

    median: float
    high: float
    threshold: float | None


@dataclass(frozen=True)
class ColourScale:
    """Map value ``low`` is 0, ``middle`` is 0.5 and ``high`` is 1 on the colour bar, linear in between.

    Below ``middle`` a colour fades with the square of its distance to ``low``.

    Args:
        low: a typical healthy value.
        middle: the threshold, where there is one.
        high: values above it have the last colour.
        threshold: what stands at the middle of the bar, None where there is no common threshold.
    """

    low: float
    middle: float
    high: float
    threshold: float | None

    def normalise(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return positions on the colour bar in [0, 1], same shape."""
        return np.interp(values, [self.low, self.middle, self.high], [0.0, 0.5, 1.0])

    def opacity(self, positions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the opacity in [0, 1] of positions on the colour bar, same shape."""
        return np.minimum(2 * positions, 1) ** 2


@dataclass(frozen=True)
class SliceArrays:
    """One axial slice of a scan.

    Args:
        scan: ``(H, W)``, 8-bit grey values.
        anomaly_map: ``(H, W)``, in the unit of the threshold.
        mask: ``(H, W)`` or None.
        label: ``(H, W)`` or None.
        spacing: of rows and of columns in mm.
        height: of the slice's middle in the scanner's coordinates in mm, None where the scan is a single slice.
    """

    scan: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    label: NDArray[np.bool_] | None
    spacing: tuple[float, float]
    height: float | None = None

    @property
    def place(self) -> str:
        """Where the slice is, in words; empty for a single slice."""
        return "" if self.height is None else f"z {self.height:.0f} mm"


def summarise_map(anomaly_map: NDArray[np.float32], threshold: float | None) -> MapSummary:
    """Summarise a map ``(P, L, I)`` over its foreground, which is where it is above zero."""
    values = anomaly_map[anomaly_map > 0]
    if values.size == 0:
        return MapSummary(0.0, 0.0, threshold)
    values = values[:: max(1, values.size // 500_000)]
    median, high = np.quantile(values, [0.5, 0.999])
    return MapSummary(float(median), float(high), threshold)


def make_colour_scale(summaries: Sequence[MapSummary]) -> ColourScale:
    """Make the colour scale that all scans of a report share.

    Args:
        summaries: one for each map.

    Returns:
        A scale from the typical median to about the highest value, its middle at the threshold.
    """
    low = float(np.median([summary.median for summary in summaries])) if summaries else 0.0
    high = max([summary.high for summary in summaries], default=1.0)
    thresholds = {summary.threshold for summary in summaries if summary.threshold is not None}
    threshold = thresholds.pop() if len(thresholds) == 1 else None
    if threshold is not None:
        low = low if low < threshold else min(0.0, threshold - 1e-6)
        # One extreme scan must not press all others into the middle of the bar.
        high = float(np.clip(high, 2 * threshold - low, 5 * threshold - 4 * low))
        return ColourScale(low, threshold, high, threshold)
    high = high if low < (low + high) / 2 < high else low + 1.0  # or no number lies between them
    return ColourScale(low, (low + high) / 2, high, None)


@lru_cache(maxsize=1)
def colour_table() -> NDArray[np.uint8]:
    """Return ``(256, 3)`` colours of the map: matplotlib's inferno, perceptually uniform, without its black end."""
    import_extra("matplotlib", "report")
    from matplotlib import colormaps

    return np.round(colormaps["inferno"](np.linspace(0.2, 1, 256))[:, :3] * 255).astype(np.uint8)


def window_scan(scan: NDArray[np.float32], like: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
    """Scale a scan to 8 bits: black at 0 (first percentile where values are negative), white at percentile 99.5.

    Args:
        scan: any shape.
        like: the image whose percentiles count, where it is another.
    """
    measured = scan if like is None else like
    values = measured.ravel()[:: max(1, measured.size // 1_000_000)]
    if values.min() < 0:
        low, high = np.quantile(values, [0.01, 0.995])
    else:
        low, high = 0.0, np.quantile(values[values > 0], 0.995) if (values > 0).any() else 1.0
    grey = np.empty(scan.shape, np.uint8)
    for source, target in zip(scan, grey, strict=True):  # plane by plane: in 8 bits the whole takes a quarter
        target[...] = np.clip((source - low) * (255 / max(high - low, 1e-12)), 0, 255)
    return grey


def render_panels(arrays: SliceArrays, scale: ColourScale, height: int) -> list[NDArray[np.uint8]]:
    """Render one slice as scan, map over scan, mask over scan, truth over scan.

    Args:
        arrays: the slice.
        scale: colours of the map.
        height: of the pictures, in pixels; the width follows from the slice's extent in mm.

    Returns:
        Four pictures ``(height, width, 3)``; the last is black where there is no truth, and so is the third without
        a mask.
    """
    rows, columns = arrays.scan.shape
    width = max(1, round(height * columns * arrays.spacing[1] / (rows * arrays.spacing[0])))

    def enlarge(array: NDArray[Any], how: Image.Resampling) -> NDArray[Any]:
        return np.asarray(Image.fromarray(array).resize((width, height), how))

    grey = np.repeat(enlarge(arrays.scan, Image.Resampling.BICUBIC)[..., None], 3, axis=-1)
    positions = scale.normalise(enlarge(arrays.anomaly_map.astype(np.float32), Image.Resampling.BILINEAR))
    opacity = 0.85 * scale.opacity(positions)[..., None]
    coloured = grey * (1 - opacity) + colour_table()[np.round(positions * 255).astype(int)] * opacity
    panels = [grey, coloured.astype(np.uint8)]
    masks = [
        None if mask is None else enlarge(mask.astype(np.uint8), Image.Resampling.NEAREST) > 0
        for mask in (arrays.mask, arrays.label)
    ]
    if masks[1] is not None:
        _outline(panels[1], masks[1], LABEL_COLOUR)
    for mask, colour in zip(masks, (MASK_COLOUR, LABEL_COLOUR), strict=True):
        panel = np.zeros_like(grey)
        if mask is not None:
            panel = (grey * 0.75).astype(np.uint8)
            panel[mask] = (panel[mask] * (1 - _FILL) + np.array(colour) * _FILL).astype(np.uint8)
            _outline(panel, mask, colour)
        panels.append(panel)
    return panels


def _outline(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Paint a mask's outline around it, with a dark halo, in place."""
    if mask.any():
        line = ndimage.binary_dilation(mask, iterations=max(1, round(picture.shape[0] / 130)))
        picture[ndimage.binary_dilation(line) & ~line] //= 3
        picture[line & ~mask] = colour
