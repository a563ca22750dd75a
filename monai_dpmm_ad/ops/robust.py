# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Statistics that a few outliers do not move."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["spread_of"]


def spread_of(values: NDArray[np.floating[Any]], axis: int | None = None) -> Any:
    """Standard deviation from the median distance from the median: of all values, or along an axis.

    Example:
        >>> float(spread_of(np.array([1.0, 2.0, 3.0, 100.0, 2.0])))
        1.4826
    """
    return 1.4826 * np.median(np.abs(values - np.median(values, axis, keepdims=True)), axis)
