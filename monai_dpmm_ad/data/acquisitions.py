# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Copies of scans that a fit acquires otherwise, so that it knows other scanners, and which scan each is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_dpmm_ad.data.types import Item

__all__ = ["ACQUISITION", "add_acquisitions", "find_original"]

#: Entry of an item that is a copy: the ``name`` of the scan, and the ``number`` of the copy from 1.
ACQUISITION = "acquisition"


def add_acquisitions(items: Sequence[Item], copies: int) -> list[Item]:
    """Add copies of scans, each to be acquired otherwise by :class:`~monai_dpmm_ad.transforms.acquire.AcquireScand`.

    Args:
        items: of a datalist.
        copies: of each scan; 0 adds none.

    Returns:
        The scans, then their first copies, then their second ones.

    Raises:
        ValueError: a scan that has the name of another one's copy.

    Example:
        >>> [item["name"] for item in add_acquisitions([{"name": "a", "image": "a.nii"}], 2)]
        ['a', 'a~1', 'a~2']
    """
    copied: list[Item] = [
        {**item, "name": f"{item['name']}~{number}", ACQUISITION: {"name": item["name"], "number": number}}
        for number in range(1, copies + 1)
        for item in items
    ]
    taken = {item["name"] for item in items}
    for item in copied:
        if item["name"] in taken:
            raise ValueError(
                f"`images` must not have a scan named {item['name']}, which is that of a copy of "
                f"{find_original(item)}. Rename it, or leave `augment` out."
            )
    return [*items, *copied]


def find_original(item: Mapping[Any, Any]) -> str:
    """Find the name of the scan that an item is a copy of; that of a scan is its own.

    Example:
        >>> [find_original(item) for item in add_acquisitions([{"name": "a", "image": "a.nii"}], 1)]
        ['a', 'a']
    """
    return str(item.get(ACQUISITION, item)["name"])
