# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A normative map whose expectations follow a person's age, sex and site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.normative.covariates import Design, Traits
from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import average_points
from monai_dpmm_ad.normative.normative_map import NormativeMap
from monai_dpmm_ad.normative.site import Shift
from monai_dpmm_ad.normative.sites import Sites
from monai_dpmm_ad.normative.trend import Trend

__all__ = ["TrendMap"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

_SHAPE = (36, 42, 36)


class TrendMap(NormativeMap):
    """Judges scans as :class:`~monai_dpmm_ad.normative.NormativeMap` does, against people of their age, sex and site.

    Each channel's atlas is of what its trend leaves, so its spread is that of the residuals. A fit learns ``design``
    from the people, then each trend in a pass before the atlas of the same channel:

        observe_trend("intensity", …), observe_score_trend(…) per scan, finish_trends("intensity", "scores")
        observe_intensity(…), observe_scores(…) per scan, finish_intensity(), finish_scores()
        observe_trend("deviation", …) per scan, finish_trends("deviation")
        observe_deviation(…) per scan, finish_deviation()

    ``traits`` are what the design says of a person, None what it says of one of whom neither age nor sex is known. The
    trends add 2 MB of buffers. What each site's scans differ by is learnt by ``sites`` at last, of finished maps.

    Args:
        arguments: of the normative map.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        scales = self.intensity.num_channels
        self.design = Design()
        self.sites: Sites | None = None
        self.trends = nn.ModuleDict(
            {"intensity": Trend(_SHAPE, scales), "deviation": Trend(_SHAPE, scales), "scores": Trend(_SHAPE, 1)}
        )

    def know_sites(self, names: Sequence[str]) -> None:
        """Have an offset for each site; of less than two there is none."""
        self.design.sites = tuple(names)
        self.sites = Sites(len(names)) if names else None

    def observe_trend(self, part: str, image: Array, affine: Matrix, frame: Frame, traits: Traits) -> None:
        """Add a healthy scan to the trend of its ``intensity``, or of its ``deviation``, which needs the former.

        Other arguments as for :meth:`forward`.
        """
        scan = self._read(image, affine, frame, traits if part == "deviation" else None)
        values = np.abs(self._deviate(scan)) if part == "deviation" else scan.channels
        self._trend(part).update(traits.terms, *self._pull(values, scan, frame, _SHAPE), _site_of(traits))

    def observe_score_trend(self, points: Matrix, scores: Array, frame: Frame, traits: Traits) -> None:
        """Add a healthy scan to the trend of the detector's score; arguments as for `observe_scores`."""
        mean, seen = average_points(frame.locate(points), scores, self.lattice_of(_SHAPE))
        unit = np.float32(float(self.scores.unit))
        self._trend("scores").update(traits.terms, mean[None] / unit, seen, _site_of(traits))

    def finish_trends(self, *parts: str) -> None:
        """End the pass over scans for these trends."""
        for part in parts:
            self._trend(part).finish()

    def _trend(self, part: str) -> Trend:
        trend = self.trends[part]
        assert isinstance(trend, Trend)
        return trend

    def _expect(self, part: str, places: Matrix, traits: Traits | None) -> Tensor:
        if traits is None or not self.design.linear:
            return super()._expect(part, places, traits)
        unit = float(self.scores.unit) if part == "scores" else 1.0
        return unit * self._at(self._trend(part).expect(traits.terms), places, _SHAPE)

    def _shift_of(self, traits: Traits | None) -> Shift | None:
        if self.sites is None or traits is None:
            return super()._shift_of(traits)
        return self.sites.of(traits.site)


def _site_of(traits: Traits) -> int:
    """The number of a site; people of whom it is not known are one more."""
    return -1 if traits.site is None else traits.site
