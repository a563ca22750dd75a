# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several sequences of one visit as the channels of one image, each processed by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import CommonKeys
from torch import Tensor

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.errors import ScanError, source_of
from monai_dpmm_ad.normative.sequences import bring_sequence, measure_overlap, register_sequences
from monai_dpmm_ad.transforms.grids import share_grid

__all__ = ["SumSequencesd", "find_present", "load_onto", "load_sequences", "scale_each", "sum_maps"]

Load = Callable[[Any, str | None, int | None], MetaTensor]

#: Least share of the smaller field of view that two sequences must have in common.
_LEAST_OVERLAP = 0.5


def load_sequences(load: Load, parts: Mapping[str, Mapping[str, Any] | None], name: str | None) -> MetaTensor:
    """Load a scan of several sequences.

    Args:
        load: loads ``(path, name, channel)`` as ``(1, *spatial)``.
        parts: sequence → ``image`` and, of a 4D file, ``channel``; None for one that is missing.
        name: of the scan.

    Returns:
        ``(Q, *spatial)`` on the grid of the first one that is there, a missing one 0 everywhere.

    Raises:
        ScanError: naming the file of a sequence that cannot be read or lies elsewhere.
    """
    reference: MetaTensor | None = None
    channels: list[Tensor | None] = []
    for part in parts.values():
        if part is None:
            channels.append(None)
            continue
        image = load(part["image"], name, part.get("channel"))
        if reference is None:
            reference = image
        channels.append(_bring_onto(image, reference))
    assert reference is not None, "a scan has a sequence"
    missing = [sequence for sequence, part in parts.items() if part is None]
    notes = json.loads(reference.meta.get("notes") or "[]")
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        notes.append(f"{' and '.join(missing)} {verb} missing: the other sequences are judged")
    meta = {
        **reference.meta,
        "notes": json.dumps(notes),
        "present": "".join("0" if part is None else "1" for part in parts.values()),
    }
    empty = torch.zeros_like(reference.as_tensor())
    return MetaTensor(torch.cat([empty if channel is None else channel for channel in channels]), meta=meta)


def load_onto(load: Load, image: MetaTensor, onto: Mapping[str, Any]) -> MetaTensor:
    """Bring a loaded sequence onto the grid of the first one of its scan.

    Args:
        load: as for :func:`load_sequences`.
        image: ``(1, *spatial)``.
        onto: the first one, ``image`` and ``channel``.
    """
    reference = load(onto["image"], None, onto.get("channel"))
    values = _bring_onto(image, reference)
    meta = {key: value for key, value in image.meta.items() if key not in ("affine", "original_affine")}
    placed = {
        key: reference.meta[key] for key in ("affine", "original_affine", "spatial_shape") if key in reference.meta
    }
    return MetaTensor(values, meta={**meta, **placed})


def _bring_onto(image: MetaTensor, reference: MetaTensor) -> Tensor:
    """The voxels of a sequence on the grid of another, as they are where the two share it."""
    if image is reference or share_grid(image, reference):
        return image.as_tensor()
    source, first = source_of(image), source_of(reference)
    if image.ndim != 4 or reference.ndim != 4 or min(*image.shape[1:], *reference.shape[1:]) < 2:
        shapes = f"{tuple(image.shape[1:])} but {first} has {tuple(reference.shape[1:])}"
        raise ScanError(source, f"has shape {shapes}: what is no volume must have the grid of the first sequence")
    values, affine = _read(image)
    fixed, fixed_affine = _read(reference)
    overlap = measure_overlap(fixed.shape, fixed_affine, values.shape, affine)
    if overlap < _LEAST_OVERLAP:
        raise ScanError(
            source,
            f"lies too far from the first sequence, {first}, to be registered: they share {100 * overlap:.0f} % of "
            "their fields of view; both have to be of one visit, in the scanner's coordinates",
        )
    motion = register_sequences(fixed, fixed_affine, values, affine)
    return torch.from_numpy(bring_sequence(values, affine, fixed.shape, fixed_affine, motion))[None]


def _read(image: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    return image.as_tensor()[0].numpy(), np.asarray(image.affine, dtype=np.float64)


def find_present(image: Tensor) -> list[int]:
    """The sequences ``(Q, *spatial)`` that are there: those that are not 0 everywhere."""
    return [number for number, channel in enumerate(image) if bool(channel.any())]


def scale_each(scale: Callable[..., Tensor], image: Tensor, mask: Tensor | None) -> Tensor:
    """Scale the intensities of each sequence by itself; what is said of the scan is said of the first one.

    Args:
        scale: of an image ``(1, *spatial)`` and its mask.
        image: ``(Q, *spatial)``.
        mask: None where it is to be found.
    """
    if len(image) == 1:
        return scale(image, mask)
    scaled = torch.zeros(image.shape)
    present = find_present(image)
    parts = {number: scale(image[number : number + 1], mask) for number in present}
    for number, part in parts.items():
        scaled[number] = part.as_subclass(Tensor)[0]
    first = parts[present[0]]
    if not isinstance(first, MetaTensor):
        return scaled
    return MetaTensor(scaled, meta=first.meta, applied_operations=list(first.applied_operations))


def sum_maps(maps: Tensor, scales: Tensor, present: str) -> Tensor:
    """Sum the maps of some sequences.

    Args:
        maps: ``(Q, *spatial)``.
        scales: ``(Q,)``, what each is multiplied with.
        present: which are summed, as ``"101"``.

    Returns:
        ``(1, *spatial)``.
    """
    total = torch.zeros_like(maps[:1])
    for number in (number for number, mark in enumerate(present) if mark == "1"):
        total += maps[number : number + 1] * scales[number].to(maps)
    return total


class _HasScales(Protocol):
    scales: Tensor
    calibration: Calibration


class SumSequencesd(MapTransform):
    """Sum the maps ``pred`` of a scan's sequences into one, each on its own fixed scale; of one map nothing is done.

    Args:
        network: a :class:`~monai_dpmm_ad.network.SequenceNet`, read at call time.

    Example:
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> SumSequencesd(network)({"pred": torch.ones(1, 4, 4)})["pred"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, network: Any) -> None:
        super().__init__(keys=CommonKeys.PRED)
        self.network = network

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Sum the maps of a copy of ``data``.

        Raises:
            ScanError: a scan with a choice of sequences that no held-out healthy scan had.
        """
        out = dict(data)
        maps = out[CommonKeys.PRED]
        if len(maps) == 1:
            return out
        network: _HasScales = self.network
        present = out[CommonKeys.IMAGE].meta["present"]
        if network.calibration.fitted and not network.calibration.of(present).fitted:
            raise ScanError(
                source_of(out[CommonKeys.IMAGE]),
                "has a choice of sequences that no held-out healthy scan had, so that nothing is known of its scores",
            )
        summed = sum_maps(maps.as_subclass(Tensor), network.scales, present)
        out[CommonKeys.PRED] = MetaTensor(summed, meta=maps.meta, applied_operations=maps.applied_operations)
        return out
