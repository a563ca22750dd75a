# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Detectors by name, as ``--detector`` and the bundle's configs give it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from monai_dpmm_ad.detectors.base import Detector
from monai_dpmm_ad.detectors.dpmm import DPMMDetector
from monai_dpmm_ad.detectors.himatch import HiMatchDetector
from monai_dpmm_ad.detectors.memory_bank import MemoryBankDetector
from monai_dpmm_ad.detectors.ogae.detector import OCSVMGuidedDetector
from monai_dpmm_ad.errors import unknown_option

__all__ = ["DETECTORS", "create_detector"]

DETECTORS: dict[str, type[Detector]] = {
    "dpmm": DPMMDetector,
    "himatch": HiMatchDetector,
    "memory_bank": MemoryBankDetector,
    "ogae": OCSVMGuidedDetector,
}
#: arguments that the pipeline gives, so that no option can contradict it
_GIVEN = ("self", "embed_dim", "num_stages", "location_weight")


def create_detector(
    name: str,
    embed_dim: int,
    num_stages: int = 1,
    location_weight: float = 0.0,
    mixture: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Detector:
    """Make a detector that is not yet fitted.

    Args:
        name: one of ``DETECTORS``.
        embed_dim: D of the embedder.
        num_stages: S of the embedder.
        location_weight: see :class:`Detector`.
        mixture: the settings that have ids of their own in a bundle's configs; ``dpmm`` alone takes them.
        options: further arguments of the detector's class.
        seed: of the fit.

    Raises:
        ValueError: an unknown name or option.

    Example:
        >>> create_detector("dpmm", 384, options={"num_components": 8}).feature_dim
        384
    """
    if name not in DETECTORS:
        raise unknown_option("detector", name, DETECTORS)
    arguments = {**(mixture or {})} if name == "dpmm" else {}
    arguments.update(options or {})
    known = set(inspect.signature(DETECTORS[name]).parameters).difference(_GIVEN)
    for option in arguments:
        if option not in known:
            raise unknown_option(f"option of {name}", option, known)
    if "seed" in known:
        arguments.setdefault("seed", seed)
    return DETECTORS[name](embed_dim, num_stages, location_weight=location_weight, **arguments)
