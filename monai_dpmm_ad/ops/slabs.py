# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Work through large arrays part by part, so that what a step takes beside them does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

__all__ = ["slab_bounds"]

_SLAB = 1 << 18  # elements


def slab_bounds(shape: Sequence[int], size: int = _SLAB) -> Iterator[slice]:
    """Cut an array into slabs along its first axis.

    Args:
        shape: of the array.
        size: elements that a slab has at most, unless a single layer has more.

    Yields:
        Where each slab lies along the first axis.

    Example:
        >>> list(slab_bounds((5, 10), size=20))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, size // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
