# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a volume to slices, through the network, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import Tensor

from monai_dpmm_ad.ops.slices import extract_slices
from monai_dpmm_ad.transforms.slices import stack_neighbours

__all__ = ["VolumeInferer", "iterate_slices"]


class VolumeInferer(Inferer):
    """Run a slice network over volumes, along one axis or the mean of several.

    Unlike MONAI's ``SliceInferer`` it passes each slice's relative position, leaves out slices without foreground,
    offers 2.5D input and fuses axes. Along ``axial`` alone and without location both give the same map.

    Args:
        axes: which of ``axial``, ``coronal``, ``sagittal``; several are averaged.
        batch_size: slices in one forward pass.
        channels: 1, or 3 for a slice with its two neighbours.
    """

    def __init__(self, axes: Sequence[str] = ("axial",), batch_size: int = 8, channels: int = 1) -> None:
        if not axes:
            raise ValueError("`axes` must name at least one axis, got none.")
        self.axes = tuple(axes)
        self.batch_size = batch_size
        self.channels = channels

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Map ``(B, 1, P, L, I)`` to a volume of the same shape; ``(B, 1, H, W)`` to an image's map.

        Args:
            inputs: preprocessed volumes or images, background exactly 0.
            network: called as ``network(slices, positions)``.
            args: unused, part of MONAI's interface.
            kwargs: unused, part of MONAI's interface.
        """
        plain = inputs.as_subclass(Tensor)
        if plain.ndim == 4:
            maps = network(plain.expand(-1, self.channels, -1, -1), None)
        else:
            # Each volume's map is written where it will be, slice by slice: a second copy may not fit into memory.
            maps = torch.zeros_like(plain)
            for volume, total in zip(plain, maps, strict=True):
                self._infer_volume(volume, network, total)
        return convert_to_dst_type(maps, inputs)[0]  # Invertd looks for the image's history on the map

    def _infer_volume(self, volume: Tensor, network: Callable[..., Tensor], total: Tensor) -> None:
        """Write the mean of the axes' maps into ``total``, zeros of the volume's shape."""
        for axis in self.axes:
            slices, maps = extract_slices(volume, axis), extract_slices(total, axis)
            for index, images, positions in iterate_slices(slices, self.batch_size, self.channels):
                maps[index] += network(images, positions)
        if len(self.axes) > 1:
            total /= len(self.axes)


def iterate_slices(slices: Tensor, batch_size: int, channels: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield batches of the slices that have foreground.

    Args:
        slices: ``(n, 1, H, W)``.
        batch_size: largest number of slices in a batch.
        channels: 1, or 3 for neighbouring slices.

    Yields:
        Index of the slices ``(b,)``, images ``(b, channels, H, W)``, relative positions ``(b,)`` in [0, 1].
    """
    positions = (torch.arange(len(slices), device=slices.device) + 0.5) / len(slices)
    for index in (slices > 0).flatten(1).any(1).nonzero().squeeze(1).split(batch_size):
        yield index, torch.stack([stack_neighbours(slices, int(i), channels) for i in index]), positions[index]
