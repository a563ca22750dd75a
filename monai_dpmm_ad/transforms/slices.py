# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Choose slices of a preprocessed volume: which ones, along which axes, with which neighbours."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.transforms.traits import MultiSampleTrait
from torch import Tensor

from monai_dpmm_ad.errors import ScanError, source_of, unknown_option
from monai_dpmm_ad.ops.slices import check_axes, choose_planes, extract_slices, pixel_aspect, thin_slices, voxel_sizes

__all__ = ["SELECTIONS", "SampleSlices", "SampleSlicesd", "select_slices", "stack_neighbours"]

SELECTIONS = ("all", "uniform", "random", "foreground")
_EXCLUDES = ("none", "slices")


def select_slices(
    areas: Tensor, selection: str, num_slices: int | None, generator: np.random.Generator | np.random.RandomState
) -> list[int]:
    """Choose among slices by their foreground areas.

    Args:
        areas: ``(n,)`` foreground pixels of each slice; one without any is never chosen.
        selection: "all"; "uniform", evenly spaced; "random", each equally likely; "foreground", likely in proportion
            to the area. The last two draw without replacement.
        num_slices: how many, or ``None`` for all; fewer when there are not as many.
        generator: the source of randomness.

    Returns:
        Indices, rising.
    """
    candidates = torch.nonzero(areas > 0).flatten().tolist()
    if selection == "all" or num_slices is None or num_slices >= len(candidates):
        return candidates
    if selection == "uniform":
        places = ((np.arange(num_slices) + 0.5) * len(candidates) / num_slices).astype(int)
        return [candidates[place] for place in places]
    weights = None
    if selection == "foreground":
        weights = areas[candidates].double().numpy()
        weights = weights / weights.sum()
    return sorted(generator.choice(candidates, size=num_slices, replace=False, p=weights).tolist())


def stack_neighbours(slices: Tensor, index: int, channels: int) -> Tensor:
    """Take one slice with its neighbours as channels.

    Args:
        slices: ``(n, 1, rows, columns)``.
        index: the slice in the middle.
        channels: 1, or 3 for previous, this and next; at the ends the slice itself stands in for the missing one.

    Returns:
        ``(channels, rows, columns)``, a copy.
    """
    reach = channels // 2
    chosen = [min(max(index + offset, 0), slices.shape[0] - 1) for offset in range(-reach, reach + 1)]
    return slices[chosen, 0].clone()


class SampleSlices(Randomizable, Transform, MultiSampleTrait):
    """Turn a preprocessed volume into a list of its slices, one dictionary each.

    The volume has orientation "PLI", its background is 0 and its foreground above 0. A 2D image is a single slice: it
    is always chosen, with the first of ``axes`` and position 0.5.

    Args:
        axes: "axial", "coronal", "sagittal": the slices of each in turn. Of "auto" it depends on the volume, see
            :func:`~monai_dpmm_ad.ops.slices.choose_planes`.
        selection: "all", "uniform", "random" or "foreground" (likely in proportion to the foreground's area).
        num_slices: how many along each axis; needed by all selections but "all".
        min_foreground: leave out slices whose foreground is smaller than this share of the largest slice's along the
            same axis. It is relative because the volume is cropped to the head, whose widest slice does not fill the
            box. A slice without foreground is never chosen.
        exclude: "slices" leaves out slices that the label marks anywhere; "none" leaves them in (their patches can
            still be left out later, the label travels along).
        channels: 1, or 3 for the previous, this and the next slice.
        seed: the choice depends on this number, the scan's name and the axis only, so it is the same in every epoch,
            worker and order. ``None`` draws anew each time from MONAI's random state (``set_random_state``).
    """

    def __init__(
        self,
        axes: Sequence[str] = ("axial",),
        selection: str = "all",
        num_slices: int | None = None,
        min_foreground: float = 0.0,
        exclude: str = "none",
        channels: int = 1,
        seed: int | None = 0,
    ) -> None:
        self.axes = check_axes(axes)
        if selection not in SELECTIONS:
            raise unknown_option("selection", selection, SELECTIONS)
        if selection != "all" and num_slices is None:
            raise ValueError(f"`num_slices` must be given with selection '{selection}', got None.")
        if num_slices is not None and (selection == "all" or num_slices < 1):
            raise ValueError(
                f"`num_slices` must be None for selection 'all' and at least 1 otherwise, got {num_slices}."
            )
        if not 0 <= min_foreground <= 1:
            raise ValueError(f"`min_foreground` must lie in [0, 1], got {min_foreground}.")
        if exclude not in _EXCLUDES:
            raise unknown_option("exclude", exclude, _EXCLUDES)
        if channels not in (1, 3):
            raise ValueError(f"`channels` must be 1 or 3, got {channels}.")
        self.selection = selection
        self.num_slices = num_slices
        self.min_foreground = min_foreground
        self.exclude = exclude
        self.channels = channels
        self.seed = seed

    def __call__(self, img: Tensor, label: Tensor | None = None, name: str | None = None) -> list[dict[str, Any]]:
        """Choose slices.

        Args:
            img: ``(1, P, L, I)`` or ``(1, H, W)``.
            label: boolean, of the same shape.
            name: the scan's name, by default that of its meta data.

        Returns:
            Dictionaries with ``image`` ``(channels, rows, columns)``, ``label`` ``(1, rows, columns)`` where a label
            was given, ``slice_index``, ``axis``, ``position``, the slice's relative place (index + ½) / n along its
            axis of the (cropped) volume, and ``aspect``, the height of its pixels divided by their width.

        Raises:
            ScanError: when no slice is left.
            ValueError: when ``img`` or ``label`` has another shape.
        """
        if img.ndim not in (3, 4) or img.shape[0] != 1:
            raise ValueError(f"`img` must have shape (1, P, L, I) or (1, H, W), got {tuple(img.shape)}.")
        if label is not None and label.shape != img.shape:
            raise ValueError(f"`label` must have the image's shape {tuple(img.shape)}, got {tuple(label.shape)}.")
        scan = name or str(getattr(img, "meta", {}).get("name", ""))
        image = img.as_tensor() if isinstance(img, MetaTensor) else img
        marked = None if label is None else (label.as_tensor() if isinstance(label, MetaTensor) else label) > 0
        sizes = voxel_sizes(img, batched=False)
        axes, step = choose_planes(self.axes, image.shape[1:], sizes)
        if image.ndim == 3:
            pairs = [(axes[0], image[None], None if marked is None else marked[None])]
        else:
            pairs = [
                (axis, extract_slices(image, axis), None if marked is None else extract_slices(marked, axis))
                for axis in axes
            ]
        samples = [
            {**sample, "aspect": pixel_aspect(sizes, axis)}
            for axis, images, labels in pairs
            for sample in self._sample(scan, axis, images, labels, step)
        ]
        if not samples:
            detail = " without a label mark" if self.exclude == "slices" and marked is not None else ""
            raise ScanError(source_of(img), f"no slice{detail} has enough foreground")
        return samples

    def _sample(self, scan: str, axis: str, images: Tensor, labels: Tensor | None, step: int) -> list[dict[str, Any]]:
        areas = (images > 0).sum(dim=(1, 2, 3))
        areas = areas * (areas >= self.min_foreground * areas.max())
        if self.exclude == "slices" and labels is not None:
            areas = areas * ~labels.flatten(1).any(dim=1)
        samples = []
        chosen = select_slices(areas.cpu(), self.selection, self.num_slices, self._generator(scan, axis))
        for index in thin_slices(chosen, step):
            sample: dict[str, Any] = {
                "image": stack_neighbours(images, index, self.channels),
                "slice_index": index,
                "axis": axis,
                "position": (index + 0.5) / images.shape[0],
            }
            if labels is not None:
                sample["label"] = labels[index].clone()
            samples.append(sample)
        return samples

    def _generator(self, scan: str, axis: str) -> np.random.Generator | np.random.RandomState:
        if self.seed is None:
            return self.R
        return np.random.default_rng([self.seed, zlib.crc32(f"{scan}\n{axis}".encode())])


class SampleSlicesd(Randomizable, MapTransform, MultiSampleTrait):
    """Dictionary version of ``SampleSlices``: an item to a list of items, whose other entries are carried along.

    Args:
        keys: the image's key.
        label_key: key of the mask, where an item has one.
        name_key: key of the scan's name.
        axes: see ``SampleSlices``.
        selection: see ``SampleSlices``.
        num_slices: see ``SampleSlices``.
        min_foreground: see ``SampleSlices``.
        exclude: see ``SampleSlices``.
        channels: see ``SampleSlices``.
        seed: see ``SampleSlices``.
        allow_missing_keys: return an item that lacks the image as it is.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        label_key: str = "label",
        name_key: str = "name",
        axes: Sequence[str] = ("axial",),
        selection: str = "all",
        num_slices: int | None = None,
        min_foreground: float = 0.0,
        exclude: str = "none",
        channels: int = 1,
        seed: int | None = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"`keys` must name one image, got {self.keys}.")
        self.label_key = label_key
        self.name_key = name_key
        self.sampler = SampleSlices(axes, selection, num_slices, min_foreground, exclude, channels, seed)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SampleSlicesd:
        """Set the random state, which counts only when ``seed`` of the constructor is ``None``."""
        super().set_random_state(seed, state)
        self.sampler.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Sample an item's slices; see ``SampleSlices.__call__``."""
        item = dict(data)
        for key in self.key_iterator(item):
            samples = self.sampler(item.pop(key), item.pop(self.label_key, None), name=item.get(self.name_key))
            renamed = {"image": key, "label": self.label_key}
            return [{**item, **{renamed.get(k, k): value for k, value in sample.items()}} for sample in samples]
        return [item]
