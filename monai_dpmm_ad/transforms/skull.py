# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Take the skull away from a scan where brains that were cut out were fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.normative.extraction import LARGER, check_extent, find_brain, measure_foreground, measure_volume
from monai_dpmm_ad.transforms.sequences import find_present, scale_each
from monai_dpmm_ad.utils.log import LOG

if TYPE_CHECKING:
    from monai_dpmm_ad.normative import NormativeMap, Volume
    from monai_dpmm_ad.transforms.place import HasNormative

__all__ = ["SKULL", "is_head", "take_skull_away", "warn_of_heads"]

SKULL = "skull"  # key of a scan's meta data


def take_skull_away(
    image: MetaTensor, scaled: MetaTensor, network: HasNormative, scale: Callable[..., Tensor]
) -> MetaTensor:
    """Put background in the place of what is not the brain, in each sequence whose foreground is a whole head.

    Of several sequences the brain is found in the first one in which it can be. Where one is a whole head,
    ``meta[SKULL]`` says how much of it is left, or that the brain was not found in it and all of it is mapped.

    Args:
        image: ``(Q, *spatial)``, in the file's units.
        scaled: the same, scaled, the background of each sequence 0.
        network: its ``normative`` is read at call time; of several sequences each has one. Nothing is done unless it
            was fitted to match.
        scale: of an image ``(1, *spatial)`` and its mask, None where it is to be found.

    Returns:
        ``scaled``, or what ``scale`` makes of the brain alone.
    """
    affine = np.asarray(scaled.affine, dtype=np.float64)
    own = {number: network if len(scaled) == 1 else cast(Any, network)[number] for number in find_present(scaled)}
    normatives = {number: cast("NormativeMap | None", one.normative) for number, one in own.items()}
    references = {number: one.reference for number, one in normatives.items() if one is not None and bool(one.matching)}
    heads = [number for number, one in references.items() if _is_larger(scaled[number], affine, one)]
    if not heads:
        return scaled
    seen, fitted = measure_foreground(_to_array(scaled[heads[0]]), affine), measure_volume(references[heads[0]])
    brains = (find_brain(_to_array(scaled[number]), affine, references[number]) for number in heads)
    brain = next((found for found in brains if found is not None), None)
    if brain is None:
        told = f"it shows {seen:.0f} mL, the fitted scans {fitted:.0f} mL, which were not found in it"
        scaled.meta[SKULL] = f"{told}: all of it is mapped; cut out what was fitted"
        return scaled
    values = image.as_subclass(Tensor).clone()
    outside = torch.from_numpy(~brain)
    for number in heads:
        air = ~(scaled[number].as_subclass(Tensor) > 0)
        values[number][outside] = values[number][air].median() if bool(air.any()) else values[number].min()
    alone = MetaTensor(values, meta=image.meta, applied_operations=list(image.applied_operations))
    found = cast(MetaTensor, scale_each(scale, alone, None))
    kept = measure_foreground(_to_array(found[heads[0]]), affine)
    found.meta[SKULL] = (
        f"its skull was taken away by the frame, {kept:.0f} of {seen:.0f} mL are kept; cut the brain out as for the fit"
    )
    return found


def is_head(scan: MetaTensor) -> bool:
    """Whether a preprocessed scan, or its map, is of a whole head where brains were fitted."""
    return bool(scan.meta.get(SKULL))


def warn_of_heads(names: Iterable[str]) -> None:
    """Name healthy scans, of which something is learnt, that are whole heads where brains were fitted."""
    if heads := sorted(names):
        LOG.warning(
            "%s: whole heads where brains were fitted, whose brain the frame found or not; leave them out or cut the "
            "brain out of them",
            ", ".join(heads),
        )


def _is_larger(scaled: Tensor, affine: NDArray[np.float64], reference: Volume) -> bool:
    """Whether a sequence ``(X, Y, Z)`` shows clearly more than the fitted scans do; `check_extent` refuses far more."""
    if scaled.ndim != 3 or min(scaled.shape) < 2:
        return False
    return check_extent(_to_array(scaled), affine, reference) > LARGER


def _to_array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.as_subclass(Tensor).numpy(), dtype=np.float32)
