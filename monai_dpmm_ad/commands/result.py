# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a bundle says of one scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.handlers import ScanRow
from monai_dpmm_ad.handlers.anatomy import AnatomyRow
from monai_dpmm_ad.handlers.regions import Region
from monai_dpmm_ad.normative.frame import Frame

__all__ = ["AnomalyResult"]


@dataclass(frozen=True)
class AnomalyResult:
    """What a bundle says of one scan.

    Args:
        scan: what the evaluator holds of it: ``pred``, ``mask`` and ``percentile`` (1, *spatial) on the scan's own
            grid, ``regions`` of an atlas where there is one, ….
        row: the scan's line of ``scores.csv``.
        regions: flagged, connected, by rising p-value, then by falling peak score.
        drift: whether the scan is one of the population that was fitted, as ``drift.json`` says it; None where the
            bundle cannot tell.
        anatomy: what flagged regions fill of each label of an atlas; empty without one.

    Example:
        >>> import numpy as np
        >>> from monai_dpmm_ad import AnomalyModel
        >>> rng = np.random.default_rng(0)
        >>> heads = [np.pad(rng.uniform(100, 110, (16, 16, 16)), 4) for _ in range(4)]
        >>> few = {"image_size": 56, "num_components": 4, "max_epochs": 1, "normative": "off"}
        >>> model = AnomalyModel.fit(heads[:3], affine=np.eye(4), **few)
        >>> result = model.predict(heads[3], affine=np.eye(4))
        >>> result.map.shape, result.mask.dtype, 0 < result.p_value <= 1
        ((24, 24, 24), dtype('bool'), True)
    """

    scan: dict[str, Any] = field(repr=False)
    row: ScanRow
    regions: list[Region] = field(repr=False)
    drift: dict[str, Any] | None = field(repr=False)
    anatomy: list[AnatomyRow] = field(default_factory=list, repr=False)

    @property
    def score(self) -> float:
        """Of the whole scan; higher is more anomalous."""
        return self.row.score

    @property
    def p_value(self) -> float | None:
        """Share of healthy scans that score as high; None without calibration, or where the scan has no place in it."""
        return self.row.p_value

    @property
    def in_range(self) -> bool | None:
        """False where the scan is unlike what was fitted, so that no p-value is promised; None where nobody knows."""
        return self.row.in_range

    @property
    def num_regions(self) -> int:
        """How many regions are flagged."""
        return len(self.regions)

    @property
    def region_p_value(self) -> float | None:
        """The smallest of a region; None where there is none, or the bundle has no calibration of regions."""
        return self.row.region_p_value

    @property
    def frame(self) -> Frame | None:
        """Where the scan lies in the fitted cohort's space; None where the bundle has no such space."""
        return self.scan.get("frame")

    @cached_property
    def map(self) -> NDArray[np.float32]:
        """Anomaly of each voxel (*spatial), non-negative, 0 in the background; of a picture, columns before rows."""
        return self._voxels("pred", np.float32)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Where the map exceeds the threshold of the bundle's false-positive rate (*spatial)."""
        return self._voxels("mask", np.bool_)

    @cached_property
    def percentile(self) -> NDArray[np.float32]:
        """Per cent of healthy voxels that are less anomalous (*spatial).

        Raises:
            ValueError: it was written into a file and let go.
        """
        if self.scan["percentile"].numel() == 0:
            raise ValueError(
                "`save_maps` must be off to have `percentile` in memory, got on. Read its file, or leave it out."
            )
        return self._voxels("percentile", np.float32)

    @cached_property
    def healthy(self) -> NDArray[np.float32] | None:
        """Mean of healthy scans at the scan's places (*spatial), in its units; None unless `healthy_twin` asks for it.

        It is an average, not a prediction of this person.
        """
        return self._voxels("healthy", np.float32) if "healthy" in self.scan else None

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxels to mm in scanner space (4, 4), as the scan has it."""
        return np.asarray(self.scan["pred"].meta["original_affine"], dtype=np.float64)

    def _voxels(self, key: str, dtype: Any) -> NDArray[Any]:
        return np.asarray(self.scan[key].as_subclass(torch.Tensor)[0].cpu()).astype(dtype, copy=False)
