# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The sites of a cohort: for each an offset by place that is held back, for all the spread that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.normative.site import NUM_CHANNELS, SITE_SHAPE, Shift, SiteCells, shrink_offset, shrink_spread

__all__ = ["Sites"]

#: Scans' worth of a site's spread being that of all sites.
_SAME_SPREAD = 5.0
_SMALLEST, _LARGEST = 0.05, 9.0  # variances inside sites, of that of the whole cohort


class Sites(nn.Module):
    """Random offsets of a cohort's sites, of channels that were standardised against the whole cohort.

    A deviate z of a scan of site s is judged by (z − o_s(r)) / (f_s τ(r)). The offsets o_s are held back by how much
    people of one site differ, see :class:`~monai_dpmm_ad.normative.site.SiteField`; τ² is the mean square of z − o_s
    over all scans, held back to 1, and f_s² what the site's own is of it, held back to 1 as well. A scan of another
    site is judged by z: the cohort's mean, and a spread in which the sites differ, too.

    Args:
        number: S of the sites.
    """

    offset: Tensor
    spread: Tensor
    factor: Tensor
    num_scans: Tensor

    def __init__(self, number: int) -> None:
        super().__init__()
        size = (NUM_CHANNELS, *SITE_SHAPE)
        self.register_buffer("offset", torch.zeros(number, *size, dtype=torch.float16))
        self.register_buffer("spread", torch.ones(size, dtype=torch.float16))
        self.register_buffer("factor", torch.ones(number, NUM_CHANNELS, dtype=torch.float64))
        self.register_buffer("num_scans", torch.zeros(number, dtype=torch.int64))

    def learn(self, scans: Mapping[int, Sequence[SiteCells]]) -> None:
        """Learn from healthy scans of each site, by its number; a site without scans stays unknown."""
        self.offset.zero_()
        for site in range(len(self.num_scans)):
            self.num_scans[site] = len(scans.get(site, ()))
        known = {site: cells for site, cells in scans.items() if cells}
        if not known:
            return
        for channel in range(len(next(iter(known.values()))[0].mean)):
            left = {site: self._take_offset(site, channel, cells) for site, cells in known.items()}
            seen = {site: np.stack([scan.seen for scan in cells]) for site, cells in known.items()}
            order = sorted(known)
            together = [np.concatenate([parts[site] for site in order]) for parts in (left, seen)]
            spread = shrink_spread(together[0], together[1], _SMALLEST, _LARGEST)
            self.spread[channel] = torch.from_numpy(spread)
            for site in order:
                own = float((left[site] / spread**2 * seen[site]).sum()) / max(float(seen[site].sum()), 1)
                square = (len(known[site]) * own + _SAME_SPREAD) / (len(known[site]) + _SAME_SPREAD)
                self.factor[site, channel] = min(max(square, _SMALLEST), _LARGEST) ** 0.5

    def _take_offset(self, site: int, channel: int, cells: Sequence[SiteCells]) -> NDArray[np.float64]:
        """Learn a site's offset; returns the mean squares ``(n, X, Y, Z)`` that are left of it."""
        means, squares = (np.stack([part[channel] for part in parts]) for parts in list(zip(*cells, strict=True))[:2])
        offset = shrink_offset(means, np.stack([scan.seen for scan in cells]))
        self.offset[site, channel] = torch.from_numpy(offset)
        return squares - 2 * offset * means + offset**2

    def of(self, site: int | None) -> Shift | None:
        """What a scan of a site differs by; None for one of an unknown site."""
        if site is None or not int(self.num_scans[site]):
            return None
        spread = self.spread.float() * self.factor[site].float()[:, None, None, None]
        return Shift(self.offset[site].float(), spread)
