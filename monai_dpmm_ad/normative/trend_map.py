# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A normative map whose expectations follow a person's age and sex."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.normative.covariates import Design
from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import average_points
from monai_dpmm_ad.normative.normative_map import NormativeMap
from monai_dpmm_ad.normative.trend import Trend

__all__ = ["TrendMap"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

_SHAPE = (36, 42, 36)


class TrendMap(NormativeMap):
    """Judges scans as :class:`~monai_dpmm_ad.normative.NormativeMap` does, against people of their age and sex.

    Each channel's atlas is of what its trend leaves, so its spread is that of the residuals. A fit learns ``design``
    from the people, then each trend in a pass before the atlas of the same channel:

        observe_trend("intensity", …), observe_score_trend(…) per scan, finish_trends("intensity", "scores")
        observe_intensity(…), observe_scores(…) per scan, finish_intensity(), finish_scores()
        observe_trend("deviation", …) per scan, finish_trends("deviation")
        observe_deviation(…) per scan, finish_deviation()

    ``terms`` are what the design says of a person, None what it says of one of whom nothing is known. The trends add
    2 MB of buffers.

    Args:
        arguments: of the normative map.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        scales = self.intensity.num_channels
        self.design = Design()
        self.trends = nn.ModuleDict(
            {"intensity": Trend(_SHAPE, scales), "deviation": Trend(_SHAPE, scales), "scores": Trend(_SHAPE, 1)}
        )

    def observe_trend(self, part: str, image: Array, affine: Matrix, frame: Frame, terms: Matrix) -> None:
        """Add a healthy scan to the trend of its ``intensity``, or of its ``deviation``, which needs the former.

        Other arguments as for :meth:`forward`.
        """
        scan = self._read(image, affine, frame, terms if part == "deviation" else None)
        values = np.abs(self._deviate(scan)) if part == "deviation" else scan.channels
        self._trend(part).update(terms, *self._pull(values, scan, frame, _SHAPE))

    def observe_score_trend(self, points: Matrix, scores: Array, frame: Frame, terms: Matrix) -> None:
        """Add a healthy scan to the trend of the detector's score; arguments as for `observe_scores`."""
        mean, seen = average_points(frame.locate(points), scores, self.lattice_of(_SHAPE))
        self._trend("scores").update(terms, mean[None], seen)

    def finish_trends(self, *parts: str) -> None:
        """End the pass over scans for these trends."""
        for part in parts:
            self._trend(part).finish()

    def _trend(self, part: str) -> Trend:
        trend = self.trends[part]
        assert isinstance(trend, Trend)
        return trend

    def _expect(self, part: str, places: Matrix, terms: Matrix | None) -> Tensor:
        if terms is None:
            return super()._expect(part, places, terms)
        return self._at(self._trend(part).expect(terms), places, _SHAPE)
