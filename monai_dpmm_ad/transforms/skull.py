# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Take the skull away from a scan where brains that were cut out were fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.normative.extraction import LARGER, find_brain, measure_foreground, measure_volume
from monai_dpmm_ad.transforms.sequences import find_present

if TYPE_CHECKING:
    from monai_dpmm_ad.normative import NormativeMap, Volume
    from monai_dpmm_ad.transforms.place import HasNormative

__all__ = ["SKULL", "take_skull_away"]

SKULL = "skull"  # key of a scan's meta data


def take_skull_away(image: MetaTensor, scaled: MetaTensor, network: HasNormative) -> MetaTensor | None:
    """Put background in the place of what is not the brain, in each sequence whose foreground is a whole head.

    Of several sequences the brain is found in the first one in which it can be. Where it was, ``meta[SKULL]`` says how
    much is left.

    Args:
        image: ``(Q, *spatial)``, in the file's units.
        scaled: the same, scaled, the background of each sequence 0.
        network: its ``normative`` is read at call time; of several sequences each has one. Nothing is done unless it
            was fitted to match.

    Returns:
        A copy; None where nothing is to be taken away, or the brain was not found.
    """
    affine = np.asarray(scaled.affine, dtype=np.float64)
    own = {number: network if len(scaled) == 1 else cast(Any, network)[number] for number in find_present(scaled)}
    normatives = {number: cast("NormativeMap | None", one.normative) for number, one in own.items()}
    references = {number: one.reference for number, one in normatives.items() if one is not None and bool(one.matching)}
    heads = [number for number, one in references.items() if _is_larger(scaled[number], affine, one)]
    brains = (find_brain(_to_array(scaled[number]), affine, references[number]) for number in heads)
    brain = next((found for found in brains if found is not None), None)
    if brain is None:
        return None
    values = image.as_subclass(Tensor).clone()
    outside = torch.from_numpy(~brain)
    for number in heads:
        air = ~(scaled[number].as_subclass(Tensor) > 0)
        values[number][outside] = values[number][air].median() if bool(air.any()) else values[number].min()
    kept, seen = (measure_foreground(part, affine) for part in (brain, _to_array(scaled[heads[0]])))
    told = (
        f"its skull was taken away by the frame, {kept:.0f} of {seen:.0f} mL are kept; cut the brain out as for the fit"
    )
    return MetaTensor(values, meta={**image.meta, SKULL: told}, applied_operations=list(image.applied_operations))


def _is_larger(scaled: Tensor, affine: NDArray[np.float64], reference: Volume) -> bool:
    """Whether a sequence ``(X, Y, Z)`` shows clearly more than the fitted scans do."""
    if scaled.ndim != 3 or min(scaled.shape) < 2:
        return False
    return measure_foreground(_to_array(scaled), affine) > LARGER * measure_volume(reference)


def _to_array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.as_subclass(Tensor).numpy(), dtype=np.float32)
