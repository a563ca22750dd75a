# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a stored DICOM value means: lookup table, slope and intercept, padding, and which end is bright."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.errors import ScanError

__all__ = ["check_grey", "check_not_mosaic", "finish_values", "real_values"]

_AIR = -900.0  # HU and below


def check_grey(source: str, dataset: Any, file: str) -> None:
    """Refuse colour, which includes rows of a palette.

    Raises:
        ScanError: naming the file.
    """
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2")).upper()
    palette = photometric.startswith("PALETTE")
    if palette or int(dataset.get("SamplesPerPixel", 1) or 1) > 1 or photometric.startswith(("RGB", "YBR")):
        how = "stored as rows of a colour table" if palette else "stored as colour"
        raise ScanError(source, f"has a colour image ({os.path.basename(file)}, {how}); a scan needs one grey channel")


def check_not_mosaic(source: str, dataset: Any) -> None:
    """Refuse a picture whose tiles are the slices of a volume.

    Raises:
        ScanError: naming the scan.
    """
    words = {str(word).upper() for word in dataset.get("ImageType") or ()}
    maker = str(dataset.get("Manufacturer", "")).upper()
    uih = "UIH" in maker or "UNITED IMAGING" in maker
    if "MOSAIC" in words or (uih and ("VFRAME" in words or (0x0065, 0x1050) in dataset or (0x0065, 0x1051) in dataset)):
        brand = "UIH" if uih else "Siemens"
        raise ScanError(
            source, f"is a {brand} mosaic, a volume whose slices lie side by side; convert it to NIfTI (dcm2niix does)"
        )


def real_values(dataset: Any, stored: NDArray[Any], groups: Sequence[Any] = ()) -> NDArray[np.float32]:
    """Turn stored numbers into values; padding becomes NaN.

    Args:
        dataset: the file's data set.
        stored: ``(rows, columns)``.
        groups: functional groups of the frame, its own before the shared ones; their transformation comes first.

    Returns:
        float32, of the same shape.
    """
    padded = _find_padding(dataset, stored)
    if dataset.get("ModalityLUTSequence"):
        values = np.asarray(_import_lut()(stored, dataset), dtype=np.float32)
    else:
        slope, intercept = _rescaling(dataset, groups)
        values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if padded is not None:
        values[padded] = np.nan
    return values


def _import_lut() -> Any:
    """pydicom's function for lookup tables, which release 3 has moved."""
    try:
        pixels = import_module("pydicom.pixels")
    except ImportError:
        pixels = import_module("pydicom.pixel_data_handlers.util")
    return pixels.apply_modality_lut


def _find_padding(dataset: Any, stored: NDArray[Any]) -> NDArray[Any] | None:
    first = _number(dataset.get("PixelPaddingValue"))
    if first is None:
        return None
    last = _number(dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted((first, first if last is None else last))
    # A padding value is written as unsigned or signed, whatever the pixels are.
    if stored.dtype.kind == "i" and low >= 2**15:
        low, high = low - 2**16, high - 2**16
    padded = (stored >= low) & (stored <= high)
    return padded if padded.any() else None


def _rescaling(dataset: Any, groups: Sequence[Any]) -> tuple[float, float]:
    """Slope and intercept; what is absent, empty or zero changes nothing."""
    for holder in (*groups, dataset):
        sequence = holder.get("PixelValueTransformationSequence")
        for item in (*(sequence or ()), holder):
            slope, intercept = _number(item.get("RescaleSlope")), _number(item.get("RescaleIntercept"))
            if slope is not None or intercept is not None:
                return slope or 1.0, intercept or 0.0
    return 1.0, 0.0


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def finish_values(dataset: Any, volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn over what is stored with small values bright, and make padding background.

    Hounsfield units keep their meaning, whichever end a viewer shows bright: there, air is low.

    Args:
        dataset: of the first slice.
        volume: all values, padding is NaN.

    Returns:
        float32, finite where the values are.
    """
    padded = np.isnan(volume)
    if padded.all():
        return np.zeros_like(volume)
    low, high = float(np.nanmin(volume)), float(np.nanmax(volume))
    inverted = str(dataset.get("PhotometricInterpretation", "")).upper() == "MONOCHROME1"
    if inverted and not _is_hounsfield(dataset, volume, low):
        volume = np.float32(low) + (np.float32(high) - volume)
    if padded.any():
        volume = np.where(padded, np.float32(low), volume)
    return volume


def _is_hounsfield(dataset: Any, volume: NDArray[np.float32], low: float) -> bool:
    if str(dataset.get("Modality", "")) != "CT" or low > _AIR:
        return False
    edge = np.concatenate([volume[0].ravel(), volume[-1].ravel(), volume[:, 0].ravel(), volume[:, -1].ravel()])
    return bool(np.nanmedian(edge) < _AIR)
