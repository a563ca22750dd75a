# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Numbers and data as text that is safe inside HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["flatten", "format_number", "to_script"]


def format_number(value: object, digits: int = 4) -> str:
    """Format a number with significant digits; integers as they are, other things as text.

    Example:
        >>> format_number(0.123456), format_number(1234567.0), format_number(12), format_number(1e-7, 2)
        ('0.1235', '1.235e+06', '12', '1e-07')
    """
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def to_script(content: Any) -> str:
    """Write JSON that may stand inside a ``<script>`` element: no character can end it or start a comment.

    Example:
        >>> to_script({"name": "</script>&"})
        '{"name": "\\\\u003c/script\\\\u003e\\\\u0026"}'
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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
