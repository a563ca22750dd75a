# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Let the voxels of a scan go when nothing needs them any more."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["DropVoxelsd"]


class DropVoxelsd(MapTransform):
    """Keep of images what is known about them, and of their voxels none: a large volume's are a quarter of the memory.

    What inverts transforms, names results and places them needs the metadata alone.

    Example:
        >>> scan = {"image": MetaTensor(torch.ones(1, 4, 4, 4), meta={"name": "a"})}
        >>> dropped = DropVoxelsd("image")(scan)["image"]
        >>> dropped.numel(), dropped.meta["name"]
        (0, 'a')
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Drop the voxels of the images in a copy of ``data``."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            item[key] = MetaTensor(torch.empty(0), meta=image.meta, applied_operations=image.applied_operations)
        return item
