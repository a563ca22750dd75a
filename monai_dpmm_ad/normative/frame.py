# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Where a scan lies in the fitted cohort's own space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.normative.lattice import Lattice, sample_places

__all__ = ["FRAMES", "Frame"]

_ROUNDS = 3  # fixed-point steps that invert a field whose gradients are well below 1: to 0.06 mm on real heads

#: ``deformed``: registered, first affinely, then by a smooth field of a few mm. ``affine``: the first alone. ``box``:
#: relative position in the foreground's box. ``none``: no place is like another scan's.
FRAMES = ("deformed", "affine", "box", "none")


@dataclass(frozen=True, eq=False)
class Frame:
    """The transform of one scan into the reference space.

    It starts from scanner coordinates and not from voxels, so that one frame serves a scan on its own grid as well as
    preprocessed, cropped or resampled. What has no scanner (a picture) uses the coordinates that its affine gives.

    Args:
        kind: one of `FRAMES`; of ``none`` the matrix says nothing.
        matrix: ``(4, 4)``, from scanner coordinates (RAS, mm) to the reference's (mm).
        field: where ``deformed``, the displacement u (mm) at the places of the reference's lattice,
            ``(X, Y, Z, 3)``: the place y of the reference is at y + u(y) in the affinely transformed scan.
        lattice: of that field.
        quality: correlation of the registered scan with the reference, in [-1, 1]; NaN where nothing was registered.
    """

    kind: str
    matrix: NDArray[np.float64]
    quality: float = math.nan
    field: NDArray[np.float32] | None = None
    lattice: Lattice | None = None

    def __post_init__(self) -> None:
        if self.kind not in FRAMES:
            raise unknown_option("kind", self.kind, FRAMES)
        if self.matrix.shape != (4, 4) or not np.isfinite(self.matrix).all() or np.linalg.det(self.matrix) == 0:
            raise ValueError(f"`matrix` must be an invertible (4, 4) matrix, got {self.matrix.tolist()}.")
        if (self.field is None) != (self.kind != "deformed") or (self.field is None) != (self.lattice is None):
            raise ValueError(f"`field` and `lattice` must be given of a deformed frame alone, got kind '{self.kind}'.")

    @property
    def inverse(self) -> NDArray[np.float64]:
        """``(4, 4)``, from the reference's coordinates back to the scanner's, without the field."""
        return np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)

    def locate(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Bring points ``(..., 3)`` in scanner coordinates (mm) to the reference's (mm)."""
        moved = np.asarray(points) @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        place = moved
        for _ in range(_ROUNDS if self.kind == "deformed" else 0):
            place = moved - self._displace(place)
        return place

    def trace(self, places: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Bring points ``(..., 3)`` of the reference (mm) to scanner coordinates (mm): the inverse of `locate`."""
        moved = np.asarray(places, dtype=np.float64)
        moved = moved + self._displace(moved)
        return moved @ self.inverse[:3, :3].T + self.inverse[:3, 3]

    def _displace(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.field is None or self.lattice is None:
            return np.zeros_like(places)
        index = self.lattice.index_of(places)
        volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.field, -1, 0)))
        return np.moveaxis(sample_places(volume, torch.from_numpy(index)).numpy(), 0, -1).astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Describe the frame in plain JSON, without its field: what could not be measured is None."""
        quality = None if math.isnan(self.quality) else self.quality
        return {"kind": self.kind, "matrix": self.matrix.tolist(), "quality": quality}
