# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a request may ask for, checked before any work."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.ops.slices import check_axes

__all__ = ["AXES_SEPARATOR", "EXTENSIONS", "MapRequest", "check_names", "check_number", "check_output", "parse_request"]

#: Several axes are one word, since 3D Slicer's option table sends text: ``axial+coronal``.
AXES_SEPARATOR = "+"
#: Files that a result can be written as.
EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
OPTIONS = ("rate", "axes", "min_region")


@dataclass(frozen=True)
class MapRequest:
    """How a map is drawn and read.

    Args:
        rate: false-positive rate of level 1, a share of healthy foreground voxels, in (0, 1).
        axes: ``auto``, or which of ``axial``, ``coronal``, ``sagittal``; several are averaged.
        min_region: smallest region that is shown and listed, in mm³ (pixels for a picture).
    """

    rate: float
    axes: tuple[str, ...]
    min_region: float


def parse_request(request: Mapping[str, Any], defaults: MapRequest) -> MapRequest:
    """Read ``rate``, ``axes`` and ``min_region`` from a client's request.

    Args:
        request: numbers may come as text; ``axes`` as text (``axial+coronal``) or as a list.
        defaults: for what the request leaves out.

    Raises:
        ValueError: a value out of range, an unknown axis, or a name that looks like one of the three.
    """
    check_names(request, OPTIONS)
    rate = check_number("rate", request.get("rate", defaults.rate))
    if not 0 < rate < 1:
        raise ValueError(f"`rate` must lie in (0, 1), got {rate:g}. Pass 0.01 for 1 %.")
    min_region = check_number("min_region", request.get("min_region", defaults.min_region))
    if min_region < 0:
        raise ValueError(f"`min_region` must be at least 0 mm³, got {min_region:g}.")
    return MapRequest(rate, _parse_axes(request.get("axes", defaults.axes)), min_region)


def check_names(request: Mapping[str, Any], options: Sequence[str]) -> None:
    """Refuse a name that was probably meant as one of ``options``; other names belong to MONAI Label and its clients.

    Raises:
        ValueError: naming the option that was meant.
    """
    for name in request:
        nearest = [] if name in options else difflib.get_close_matches(name, options, n=1, cutoff=0.7)
        if nearest:
            raise ValueError(f"`{name}` must be one of {', '.join(options)}. Did you mean '{nearest[0]}'?")


def check_number(name: str, value: Any) -> float:
    """Turn a request's value into a finite number.

    Raises:
        ValueError: anything else, or true and false.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be a number, got {value!r}.")
    return number


def _parse_axes(value: Any) -> tuple[str, ...]:
    names = value.split(AXES_SEPARATOR) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`axes` must be text like axial or axial{AXES_SEPARATOR}coronal, got {value!r}.")
    axes = check_axes([name.strip() for name in names])
    if len(set(axes)) < len(axes):
        raise ValueError(f"`axes` must name each axis once, got {AXES_SEPARATOR.join(axes)}.")
    return axes


def check_output(request: Mapping[str, Any], is_mask: bool) -> tuple[str | None, np.dtype[Any]]:
    """Read ``result_extension`` and ``result_dtype``.

    Args:
        request: of the client.
        is_mask: whether a label map is asked for; it fits into any number type, a map needs a floating one.

    Returns:
        The extension, None for that of the scan; the type.

    Raises:
        ValueError: an extension that cannot be written, no type, or a type that would cut the map's decimals off.
    """
    extension = request.get("result_extension") or None
    if extension is not None and extension not in EXTENSIONS:
        raise unknown_option("result_extension", extension, EXTENSIONS)
    name = request.get("result_dtype") or ("uint8" if is_mask else "float32")
    try:
        dtype = np.dtype(str(name))
    except TypeError as error:
        raise ValueError(f"`result_dtype` must be a number type such as uint8 or float32, got {name!r}.") from error
    if dtype.kind not in ("fui" if is_mask else "f"):
        raise ValueError(
            f"`result_dtype` must be a floating type for a map, got {name}. "
            "3D Slicer asks for uint8: choose dpmm_ad_mask there and load the map as a volume."
            if dtype.kind in "iub"
            else f"`result_dtype` must be a number type such as uint8 or float32, got {name!r}."
        )
    return extension, dtype
