# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Subsets of a few things, written as ``"101"``: the first and the third of three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["ForSubsets", "list_subsets"]


def list_subsets(number: int) -> list[str]:
    """All subsets of ``number`` things but the empty one; the whole comes last.

    Example:
        >>> list_subsets(2)
        ['01', '10', '11']
    """
    return [format(bits, f"0{number}b") for bits in range(1, 2**number)]


class ForSubsets(nn.Module):
    """Mixed into a module that is for a few things together: beside it one of its kind for every other subset."""

    def make_parts(self, number: int, make: Callable[[], nn.Module]) -> None:
        """Make the modules of the subsets of ``number`` things that lack any."""
        *others, self.whole = list_subsets(number)
        self.parts = nn.ModuleDict({present: make() for present in others})

    def of(self, present: str | None) -> Any:
        """The one that is for the things ``present``, as ``"101"``; None for all."""
        return self if present is None or present == self.whole else self.parts[present]
