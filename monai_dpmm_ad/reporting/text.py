# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Numbers and settings as a reader wants them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["count_decimals", "count_of", "flatten", "format_p_value", "format_setting"]


def count_of(number: int, thing: str) -> str:
    """Write how many there are of something.

    Example:
        >>> count_of(1, "scan"), count_of(2, "scan")
        ('1 scan', '2 scans')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def count_decimals(values: Iterable[float | None], digits: int = 4) -> int:
    """Number of decimals with which the largest of some numbers has so many digits: one precision for a column.

    Example:
        >>> count_decimals([283.569, 0.25, None]), count_decimals([0.0123]), count_decimals([])
        (1, 5, 3)
    """
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    before = math.floor(math.log10(largest)) + 1 if largest > 0 else 1
    return min(max(digits - before, 0), 12)


def format_p_value(value: float, in_range: bool | None = None) -> str:
    """Write a p-value with three decimals, or with its first digit where they would all be 0.

    Where its scan is not in the range of what was fitted, it has a question mark.

    Example:
        >>> format_p_value(0.2), format_p_value(1 / 4097), format_p_value(0.04, in_range=False)
        ('0.200', '0.0002', '0.040 ?')
    """
    written = f"{value:.3f}" if value >= 0.0005 else f"{value:.1g}"
    return f"{written} ?" if in_range is False else written


def format_setting(value: Any) -> str:
    """Write a setting in words rather than in Python.

    Example:
        >>> format_setting(None), format_setting(["axial", "coronal"]), format_setting(True), format_setting(0.123456)
        ('–', 'axial, coronal', 'yes', '0.1235')
    """
    if value is None or value == "" or value == [] or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_setting(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted keys.

    Example:
        >>> flatten({"a": 1, "b": {"c": 2}})
        {'a': 1, 'b.c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
