# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a volume to slices, through the network, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from monai.transforms import PadListDataCollate
from monai.utils import convert_to_dst_type
from torch import Tensor

from monai_dpmm_ad.calibration.drift import PatchSummary, summarise_scan
from monai_dpmm_ad.ops.slices import (
    blend_slices,
    check_axes,
    choose_planes,
    extract_slices,
    pixel_aspect,
    slice_step,
    thin_slices,
    voxel_sizes,
)
from monai_dpmm_ad.transforms.slices import stack_neighbours

__all__ = ["VolumeInferer", "iterate_slices"]


#: How much further apart slices of several planes are. At 2.6 small lesions were drawn less well (docs/normative.md).
_SPARSER = 2


class VolumeInferer(Inferer):
    """Run a slice network over volumes, along one axis or the mean of several.

    Unlike MONAI's ``SliceInferer`` it passes each slice's relative position, leaves out slices without foreground,
    offers 2.5D input and fuses axes. Along ``axial`` alone and without location both give the same map.

    Args:
        axes: which of ``axial``, ``coronal``, ``sagittal``; several are averaged. Of ``auto`` it depends on the volume,
            see :func:`~monai_dpmm_ad.ops.slices.choose_planes`.
        batch_size: slices in one forward pass.
        channels: 1, or 3 for a slice with its two neighbours.
        slice_spacing: least distance of the slices that the network sees, as a share of the longer side of a slice; the
            maps of those between are interpolated. None and 0 show it every slice. Of several axes that ``auto`` chose
            it is twice as much: what one misses another sees.

    Example:
        >>> inferer = VolumeInferer(axes=("axial", "coronal"))
        >>> inferer(torch.rand(1, 1, 6, 5, 4), lambda slices, positions: 2 * slices[:, :1]).shape
        torch.Size([1, 1, 6, 5, 4])
    """

    def __init__(
        self,
        axes: Sequence[str] = ("axial",),
        batch_size: int = 8,
        channels: int = 1,
        slice_spacing: float | None = None,
    ) -> None:
        self.axes = check_axes(axes)
        self.batch_size = batch_size
        self.channels = channels
        self.slice_spacing = slice_spacing

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, summarise: bool = False, **kwargs: Any
    ) -> Any:
        """Map ``(B, Q, P, L, I)`` to volumes of the same shape; ``(B, Q, H, W)`` to images' maps.

        Of Q sequences each is mapped by itself, inside the box around its own foreground; Q is 1 where there is one.

        Args:
            inputs: preprocessed volumes or images, background exactly 0.
            network: called as ``network(slices, positions)``, with ``aspect=`` where pixels are not square, with
                ``summarise=True`` where asked, and with ``sequence=`` where Q is not 1.
            args: unused, part of MONAI's interface.
            summarise: whether to say how usual each scan's patches are, too; the network must be an
                :class:`~monai_dpmm_ad.network.AnomalyNet`, or return what that returns.
            kwargs: unused, part of MONAI's interface.

        Raises:
            ValueError: scans were padded to one shape.

        Returns:
            The maps; with ``summarise`` the maps and a list of what
            :func:`~monai_dpmm_ad.calibration.drift.summarise_scan` says of each of the B scans, a list of that of each
            of several sequences.
        """
        _refuse_padding(inputs)
        plain = inputs.as_subclass(Tensor)
        sizes = voxel_sizes(inputs)
        if plain.shape[1] > 1:
            maps = torch.zeros_like(plain)
            told = [self._infer_sequences(*scan, network, sizes, summarise) for scan in zip(plain, maps, strict=True)]
            placed = convert_to_dst_type(maps, inputs)[0]
            return (placed, told) if summarise else placed
        if plain.ndim == 4:
            pictures, pixels = plain.expand(-1, self.channels, -1, -1), _shape_of_pixels(sizes, self.axes[0])
            parts = pictures.split(1) if summarise else [pictures]  # a forward pass has one summary
            results = [_call(network, part, None, pixels, summarise) for part in parts]
            maps, summaries = torch.cat([found for found, _ in results]), [summary for _, summary in results]
        else:
            # Each volume's map is written where it will be, slice by slice: a second copy may not fit into memory.
            maps = torch.zeros_like(plain)
            summaries = [
                self._infer_volume(volume, network, sizes, summarise, total)
                for volume, total in zip(plain, maps, strict=True)
            ]
        placed = convert_to_dst_type(maps, inputs)[0]  # Invertd looks for the image's history on the map
        return (placed, [summarise_scan(summary) for summary in summaries]) if summarise else placed

    def _infer_sequences(
        self, scan: Tensor, totals: Tensor, network: Callable[..., Any], sizes: Tensor, summarise: bool
    ) -> list[dict[str, list[float]] | None]:
        """Write the map of each sequence of ``(Q, *spatial)`` into ``totals``, as if the scan had that one alone."""
        told: list[dict[str, list[float]] | None] = []
        for number, (image, total) in enumerate(zip(scan[:, None], totals[:, None], strict=True)):
            one = partial(network, sequence=number)
            summaries: list[PatchSummary] = []
            if not image.any():
                pass
            elif image.ndim == 3:
                picture = image[None].expand(-1, self.channels, -1, -1)
                maps, summaries = _call(one, picture, None, _shape_of_pixels(sizes, self.axes[0]), summarise)
                total += maps[0]
            else:
                box = (slice(None), *_find_box(image[0]))
                summaries = self._infer_volume(image[box], one, sizes, summarise, total[box])
            told.append(summarise_scan(summaries))
        return told

    def _infer_volume(
        self, volume: Tensor, network: Callable[..., Any], sizes: Tensor, summarise: bool, total: Tensor
    ) -> list[PatchSummary]:
        """Write the mean of the axes' maps into ``total``, zeros of the volume's shape."""
        summaries = []
        axes, fewer = choose_planes(self.axes, volume.shape[1:], sizes)
        spacing = (self.slice_spacing or 0) * (_SPARSER if fewer > 1 else 1)
        for axis in axes:
            slices, maps = extract_slices(volume, axis), extract_slices(total, axis)
            pixels = _shape_of_pixels(sizes, axis)
            step = slice_step(volume.shape[1:], sizes, axis, spacing)
            last: tuple[int, Tensor] | None = None
            for index, images, positions in iterate_slices(slices, self.batch_size, self.channels, step):
                part, found = _call(network, images, positions, pixels, summarise)
                maps[index] += part
                summaries += found
                for here in zip(index.tolist(), part, strict=True) if step > 1 else ():
                    _fill(maps, slices, last, here)
                    last = here
            if last is not None:
                _fill(maps, slices, last, None)
        if len(axes) > 1:
            total /= len(axes)
        return summaries


def _refuse_padding(inputs: Tensor) -> None:
    """Refuse what MONAI's ``pad_list_data_collate`` made of scans: their maps would be others, and lie elsewhere."""
    operations = getattr(inputs, "applied_operations", None) or ()
    for last in (scan[-1] for scan in operations if isinstance(scan, list) and scan):
        if last.get("class") == PadListDataCollate.__name__:
            raise ValueError(
                "`inputs` must be scans as they were cropped, got a batch that was padded to one shape. Give "
                "`batch_size` 1 and `collate_fn` collate_scans to the loader."
            )


def _find_box(volume: Tensor) -> tuple[slice, ...]:
    """The box around what is not 0 in ``(P, L, I)``."""
    ends = []
    for axis in range(volume.ndim):
        inside = volume.movedim(axis, 0).flatten(1).any(1).nonzero()
        ends.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(ends)


def _shape_of_pixels(sizes: Tensor, axis: str) -> dict[str, float]:
    aspect = pixel_aspect(sizes, axis)
    return {} if aspect == 1 else {"aspect": aspect}


def _fill(maps: Tensor, slices: Tensor, one: tuple[int, Tensor] | None, two: tuple[int, Tensor] | None) -> None:
    """Add to ``maps`` those of the slices between two that the network has seen, or before or after one of them."""
    seen = [part for part in (one, two) if part is not None]
    numbers, own = [number for number, _ in seen], torch.stack([part for _, part in seen])
    for number in range(0 if one is None else one[0] + 1, len(slices) if two is None else two[0]):
        distances = [abs(number - other) for other in numbers]
        maps[number] += blend_slices(own, slices[numbers] > 0, distances, slices[number] > 0)


def iterate_slices(
    slices: Tensor, batch_size: int, channels: int, step: int = 1
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield batches of the slices that have foreground.

    Args:
        slices: ``(n, 1, H, W)``.
        batch_size: largest number of slices in a batch.
        channels: 1, or 3 for neighbouring slices.
        step: 1 for every slice, n for every n-th.

    Yields:
        Index of the slices ``(b,)``, images ``(b, channels, H, W)``, relative positions ``(b,)`` in [0, 1].
    """
    positions = (torch.arange(len(slices), device=slices.device) + 0.5) / len(slices)
    filled = (slices > 0).flatten(1).any(1).nonzero().squeeze(1).tolist()
    chosen = torch.tensor(thin_slices(filled, step), dtype=torch.int64, device=slices.device)
    for start in range(0, len(chosen), batch_size):
        index = chosen[start : start + batch_size]
        yield index, torch.stack([stack_neighbours(slices, int(i), channels) for i in index]), positions[index]


def _call(
    network: Callable[..., Any], images: Tensor, positions: Tensor | None, pixels: dict[str, float], summarise: bool
) -> tuple[Tensor, list[PatchSummary]]:
    if not summarise:
        return network(images, positions, **pixels), []
    maps, summary = network(images, positions, **pixels, summarise=True)
    return maps, [summary]
