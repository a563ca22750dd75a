# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Subsets of a few things, written as ``"101"``: the first and the third of three."""

from __future__ import annotations

__all__ = ["list_subsets"]


def list_subsets(number: int) -> list[str]:
    """All subsets of ``number`` things but the empty one; the whole comes last.

    Example:
        >>> list_subsets(2)
        ['01', '10', '11']
    """
    return [format(bits, f"0{number}b") for bits in range(1, 2**number)]
