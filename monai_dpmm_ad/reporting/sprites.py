# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Pack a scan, its map and its masks into three small pictures that the report's viewer unpacks."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from scipy import ndimage

from monai_dpmm_ad.reporting.colours import window_scan
from monai_dpmm_ad.reporting.slices import find_box
from monai_dpmm_ad.reporting.volumes import ScanVolumes

__all__ = ["MAX_PICTURE_SIDE", "MAX_VOLUME_SIDE", "encode_picture", "pack_viewer"]

#: Longest side of what is embedded, in voxels: a 1 mm brain is shown at 1.6 mm, about 200 KB.
MAX_VOLUME_SIDE = 112
MAX_PICTURE_SIDE = 512


def encode_picture(pixels: NDArray[np.uint8], quality: int | None = 85) -> str:
    """Encode a picture as a data URL.

    Args:
        pixels: ``(H, W)`` grey or ``(H, W, 3)``.
        quality: of a lossy WebP, 0 to 100; None, or a Pillow without WebP, gives a lossless PNG.
    """
    buffer = io.BytesIO()
    kind = "png" if quality is None or not features.check("webp") else "webp"
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": quality, "method": 2}
    Image.fromarray(pixels).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def pack_viewer(
    volumes: ScanVolumes,
    grey: NDArray[np.uint8],
    highest: float | None,
    places: Sequence[tuple[int, int, int]] = (),
) -> dict[str, Any]:
    """Resample a scan to isotropic voxels and pack it for the viewer.

    Masks are enlarged rather than lost: a displayed voxel is in a mask when any of its voxels is.

    Args:
        volumes: the scan.
        grey: the scan in 8 bits, ``(P, L, I)``.
        highest: map values above it need not be told apart, None where all must be.
        places: indices (P, L, I) of the regions that can be gone to; the viewer opens at the first.

    Returns:
        What ``report.js`` reads: ``size`` (I, P, L), ``tiles`` per row of the pictures, ``low`` and ``high`` of the
        8-bit map, ``peak`` and ``places`` (I, P, L), the ``affine`` from display voxels (P, L, I) to mm, and the data
        URLs ``scan``, ``healthy`` (None where there is none), ``map`` and ``masks`` (red the mask, green the truth).
    """
    box = find_box(volumes, grey)
    limit = MAX_PICTURE_SIDE if volumes.is_flat else MAX_VOLUME_SIDE
    shape = np.array(grey[box].shape)
    extent = shape * volumes.spacing
    shown = np.array([True, True, not volumes.is_flat])
    step = max(volumes.spacing[shown].min(), extent[shown].max() / limit)
    size = np.where(shown, np.maximum(np.round(extent / step), 1), 1).astype(int)
    factor = shape / size  # source voxels in one display voxel

    scan = _resample(grey[box], size)
    anomaly_map = _resample(volumes.anomaly_map[box], size)
    low = float(anomaly_map[anomaly_map > 0].min()) if (anomaly_map > 0).any() else 0.0
    high = max(min(float(anomaly_map.max()), highest if highest is not None else math.inf), low + 1e-6)
    levels = np.where(anomaly_map > 0, np.clip((anomaly_map - low) / (high - low) * 254 + 1, 1, 255), 0)

    masks = [np.zeros(size, bool) if m is None else _resample_mask(m[box], size) for m in (volumes.mask, volumes.label)]
    flagged = np.where(masks[0], anomaly_map, 0) if masks[0].any() else anomaly_map
    start = np.array([part.start or 0 for part in box])
    shown_places = [np.clip((np.array(place) - start + 0.5) / factor, 0, size - 1).astype(int) for place in places]
    shown_places = shown_places or [np.array(np.unravel_index(int(flagged.argmax()), flagged.shape))]
    to_source = np.diag([*factor, 1.0])
    to_source[:3, 3] = start + (factor - 1) / 2
    columns = math.ceil(math.sqrt(size[2] * size[0] / size[1]))
    packed = np.stack([_tile(mask.astype(np.uint8) * 255, columns) for mask in (*masks, np.zeros(size, bool))], axis=-1)
    twin = None if volumes.healthy is None else window_scan(volumes.healthy[box], like=volumes.scan)
    return {
        "size": [int(size[2]), int(size[0]), int(size[1])],
        "tiles": columns,
        "low": low,
        "high": high,
        "peak": shown_places[0][[2, 0, 1]].tolist(),
        "places": [place[[2, 0, 1]].tolist() for place in shown_places],
        "affine": np.round(volumes.affine @ to_source, 4).tolist(),
        "letters": not volumes.is_picture,
        "hasMask": volumes.mask is not None,
        "hasTruth": volumes.label is not None,
        "scan": encode_picture(_tile(scan.round().clip(0, 255).astype(np.uint8), columns), 82),
        "healthy": None if twin is None else encode_picture(_tile(_resample(twin, size).astype(np.uint8), columns), 82),
        "map": encode_picture(_tile(levels.round().astype(np.uint8), columns), 90),
        "masks": encode_picture(packed, None),
    }


def _resample(array: NDArray[Any], size: NDArray[Any]) -> NDArray[np.float32]:
    factor = np.array(array.shape) / size
    if (factor > 1.5).any():
        widths = np.maximum(np.round(factor), 1).astype(int)
        array = ndimage.uniform_filter(array, widths, output=np.float32, mode="nearest")
    array = array.astype(np.float32, copy=False)
    if tuple(size) == array.shape:
        return array
    return ndimage.zoom(array, 1 / factor, order=1, mode="nearest", grid_mode=True)


def _resample_mask(mask: NDArray[np.bool_], size: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark each display voxel that a marked voxel touches with its centre, or that lies in one."""
    out = np.zeros(size, bool)
    scale = size / np.array(mask.shape)
    for number, plane in enumerate(mask):  # plane by plane, since a place takes 24 bytes
        where = np.argwhere(plane)
        rows = ((where + 0.5) * scale[1:]).astype(int)
        out[int((number + 0.5) * scale[0]), rows[:, 0], rows[:, 1]] = True
    if mask.any() and (scale > 1).any():
        nearest = [
            np.minimum(((np.arange(n) + 0.5) / s).astype(int), m - 1)
            for n, s, m in zip(size, scale, mask.shape, strict=True)
        ]
        out |= mask[np.ix_(*nearest)]
    return out


def _tile(array: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Lay the axial slices of ``(P, L, I)`` side by side, ``columns`` to a row."""
    rows, width, depth = array.shape
    lines = math.ceil(depth / columns)
    padded = np.zeros((lines * columns, rows, width), np.uint8)
    padded[:depth] = np.moveaxis(array, 2, 0)
    return padded.reshape(lines, columns, rows, width).transpose(0, 2, 1, 3).reshape(lines * rows, columns * width)
