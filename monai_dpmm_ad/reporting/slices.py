# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Choose the axial slices of a scan that a reader should see first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.reporting.colours import SliceArrays, window_scan
from monai_dpmm_ad.reporting.volumes import ScanVolumes

__all__ = ["choose_slices", "cut_slices", "find_box"]


def find_box(volumes: ScanVolumes, grey: NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """Find the box of head, map, mask and truth, with a margin of 3 %; a flat scan is kept whole.

    Args:
        volumes: the scan.
        grey: the scan in 8 bits, ``(P, L, I)``.
    """
    if volumes.is_flat:
        return slice(None), slice(None), slice(None)
    shown = (grey > 6) | (volumes.anomaly_map > 0)
    for extra in (volumes.mask, volumes.label):
        shown = shown if extra is None else shown | extra
    box = []
    for axis, size in enumerate(shown.shape):
        where = np.flatnonzero(shown.any(tuple({0, 1, 2} - {axis})))
        margin = max(1, round(0.03 * size))
        box.append(slice(max(0, where[0] - margin), where[-1] + 1 + margin) if where.size else slice(None))
    return box[0], box[1], box[2]


def choose_slices(volumes: ScanVolumes, count: int, places: Sequence[tuple[int, int, int]] = ()) -> list[int]:
    """Choose axial slices: those with truth and with the first regions, then anomalous ones, then an even spread.

    Args:
        volumes: the scan.
        count: how many; fewer result where the scan has fewer slices.
        places: indices of the regions, the most important first.

    Returns:
        Indices along the last axis, increasing. With ``count`` 1, that of the first region, or the most anomalous one
        where there is none, whatever the truth.
    """
    depth = volumes.scan.shape[2]
    if depth <= count:
        return list(range(depth))
    interest = volumes.anomaly_map.max(axis=(0, 1)).astype(np.float64)
    interest /= max(interest.max(), 1e-12)  # below one voxel: it only breaks ties
    for extra in (volumes.mask, volumes.label if count > 1 else None):
        if extra is not None:
            interest += extra.sum(axis=(0, 1))
    filled = np.flatnonzero((volumes.anomaly_map > 0).any(axis=(0, 1)))
    low, high = (int(filled[0]), int(filled[-1])) if filled.size else (0, depth - 1)
    gap = max(1, (high - low) // (2 * count))
    chosen: list[int] = []
    if count > 1 and volumes.label is not None and volumes.label.any():
        chosen.append(int(volumes.label.sum(axis=(0, 1)).argmax()))
    for index in [*(place[2] for place in places), *np.argsort(-interest, kind="stable")]:
        if len(chosen) >= (count + 1) // 2:
            break
        if all(abs(index - other) >= gap for other in chosen):
            chosen.append(int(index))
    while len(chosen) < count:
        # The slice farthest from all chosen ones, inside the head without its outermost tenths.
        inner = np.arange(low + (high - low) // 10, high - (high - low) // 10 + 1)
        distance = np.min(np.abs(inner[:, None] - np.array(chosen)[None]), axis=1)
        chosen.append(int(inner[int(np.argmax(distance))]))
    return sorted(set(chosen))


def cut_slices(volumes: ScanVolumes, indices: list[int], grey: NDArray[np.uint8] | None = None) -> list[SliceArrays]:
    """Cut axial slices out of a scan, cropped to the head.

    Args:
        volumes: the scan.
        indices: along the last axis.
        grey: the scan in 8 bits, computed where it is not given.
    """
    grey = window_scan(volumes.scan) if grey is None else grey
    rows, columns, _ = find_box(volumes, grey)
    spacing = (float(volumes.spacing[0]), float(volumes.spacing[1]))
    middle = (volumes.scan.shape[0] / 2, volumes.scan.shape[1] / 2)
    return [
        SliceArrays(
            scan=grey[rows, columns, index].copy(),
            anomaly_map=volumes.anomaly_map[rows, columns, index].copy(),
            mask=None if volumes.mask is None else volumes.mask[rows, columns, index].copy(),
            label=None if volumes.label is None else volumes.label[rows, columns, index].copy(),
            spacing=spacing,
            height=None if volumes.is_flat else float((volumes.affine @ [*middle, index, 1])[2]),
        )
        for index in indices
    ]
