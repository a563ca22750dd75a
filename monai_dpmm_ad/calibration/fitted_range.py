# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether a scan's finished map as a whole lies where those of held-out healthy scans lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.calibration.drift import MAX_SCANS, choose_scans
from monai_dpmm_ad.ops.robust import spread_of

__all__ = ["FALSE_MARKS", "OWN", "FittedRange", "describe_own"]

#: What is kept of each scan: median and spread of the quieter half of its finished map, and how far its registration is
#: from agreement.
OWN = ("median", "spread", "disagreement")
#: Of healthy scans at most this share is marked, from so many held-out ones on whatever the distribution.
FALSE_MARKS = 0.05
_ENOUGH = round(1 / FALSE_MARKS) - 1
#: Shares of the map: neither is where lesions are.
_MIDDLE, _UPPER = 0.5, 0.84
#: A lesion of 40 mm raises the map in a tenth of the brain, which is more than healthy scans differ by in these two. It
#: lies at one place, another scanner's signs everywhere: of blocks of this side the quieter half is described.
_BLOCK_MM, _QUIET = 24.0, 0.5
#: What a scan must lie off at least, in robust standard deviations between scans, and how small those can be.
_LEAST_OFFSET, _LEAST_SPREAD = 3.0, 0.02
#: Two values lie equally far from their middle, whatever they are.
_FEWEST = 2
_VALUES = 1 << 18
_SAID = ("its map is too high everywhere", "its map varies too much", "its registration agrees too little")


def describe_own(finished: Tensor, quality: float | None, sizes: Sequence[float] | None = None) -> list[float]:
    """What of a scan is compared, see `OWN`; lesions that fill less than half of its blocks have no say.

    Args:
        finished: its map ``(X, Y, Z)``, judged by place, 0 in the background, not 0 everywhere.
        quality: of its registration; None where it was not registered.
        sizes: of its voxels, mm; None describes the whole map.

    Example:
        >>> [round(value, 2) for value in describe_own(torch.tensor([0.0, 1.0, 2.0, 3.0]), 0.9)]
        [0.69, 0.29, 0.1]
    """
    flat = finished.detach().cpu().flatten()
    where = torch.arange(0, len(flat), max(1, len(flat) // _VALUES))
    where = where[flat[where] > 0]
    values = flat[where].double().numpy()
    if sizes is not None:
        voxels = [max(1, round(_BLOCK_MM / size)) for size in sizes]
        grid = [1 + length // side for length, side in zip(finished.shape, voxels, strict=True)]
        places = np.unravel_index(where.numpy(), finished.shape)
        blocks = [place // side for place, side in zip(places, voxels, strict=True)]
        values = _keep_quiet(values, np.ravel_multi_index(blocks, grid))
    middle, upper = np.quantile(values, [_MIDDLE, _UPPER])
    return [float(np.log(middle)), float(np.log(upper / middle)), 1.0 if quality is None else 1.0 - quality]


def _keep_quiet(values: NDArray[np.float64], blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    """The values ``(n,)`` in the blocks, numbered ``(n,)``, of the least upper quantiles: half of them or some more."""
    block = np.unique(blocks, return_inverse=True)[1]
    order = np.lexsort([values, block])
    sizes = np.bincount(block)
    upper = values[order][np.cumsum(sizes) - sizes + (_UPPER * (sizes - 1)).astype(int)]
    ranked = np.argsort(upper, kind="stable")
    kept = ranked[: 1 + np.searchsorted(np.cumsum(sizes[ranked]), _QUIET * len(values))]
    return values[np.isin(block, kept)]


class FittedRange(nn.Module):
    """What held-out healthy scans' maps are like as a whole, as buffers of fixed shape.

    Each column of the n scans and a new one is centred by its median and divided by its robust spread, over all n + 1,
    and a scan's offset is the largest of its columns, upward. The new scan's conformal p-value is the share of the
    n + 1 whose offset is not smaller: of healthy scans like those, at most a share a has p ≤ a.

    Reference:
        Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", section 2.2.

    Example:
        >>> reach = FittedRange()
        >>> reach.fit([[0.01 * number, 0.3, 0.1] for number in range(20)])
        >>> reach.judge([0.1, 0.3, 0.1]) is None, reach.judge([1.5, 0.3, 0.1])
        (True, 'its map is too high everywhere (p = 0.048)')
    """

    rows: Tensor
    num_scans: Tensor
    by_blocks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by_blocks", torch.tensor(True))
        self.register_buffer("rows", torch.zeros(MAX_SCANS, len(OWN), dtype=torch.float64))
        self.register_buffer("num_scans", torch.zeros((), dtype=torch.int64))

    def describe(self, finished: Tensor, quality: float | None, sizes: Sequence[float]) -> list[float]:
        """`describe_own` as the held-out scans were described: a model of before blocks were told has whole maps."""
        return describe_own(finished, quality, sizes if self.by_blocks else None)

    def fit(self, scans: Sequence[Sequence[float]]) -> None:
        """Take held-out healthy scans, each as `describe_own` has it."""
        chosen = choose_scans(len(scans), MAX_SCANS)
        self.rows.zero_()
        if len(chosen):
            self.rows[: len(chosen)] = torch.tensor(scans, dtype=torch.float64)[chosen].to(self.rows)
        self.num_scans.fill_(len(chosen))

    def p_value(self, own: Sequence[float]) -> float:
        """The conformal p-value of a scan; 1 where nothing was fitted."""
        return self._compare(own)[0]

    def judge(self, own: Sequence[float]) -> str | None:
        """Say in what a scan lies beyond the held-out ones.

        With fewer than 19 scans no p-value reaches `FALSE_MARKS`: one in n + 1 healthy scans lies beyond the other n.
        Such a scan is marked where it is √(18 / (n − 1)) times as far off as is asked with 19: a spread of few is
        found too small by about that. Of values whose tails are those of t with two degrees of freedom or lighter
        at most 5 in 100 are marked then, of strongly skewed ones somewhat more.

        Returns:
            A clause without a full stop; None where it does not, or nothing is known.
        """
        count = int(self.num_scans)
        if count < _FEWEST:
            return None
        p_value, offset, column = self._compare(own)
        least = _LEAST_OFFSET * max(1.0, ((_ENOUGH - 1) / (count - 1)) ** 0.5)
        if p_value > max(FALSE_MARKS, 1 / (count + 1)) or offset < least:
            return None
        return f"{_SAID[column]} (p = {p_value:.2g})"

    def _compare(self, own: Sequence[float]) -> tuple[float, float, int]:
        count = int(self.num_scans)
        if not count:
            return 1.0, 0.0, 0
        every = np.vstack([self.rows[:count].cpu().numpy(), own])
        off = (every - np.median(every, 0)) / np.maximum(spread_of(every, 0), _LEAST_SPREAD)
        offsets = off.max(1)
        return float((offsets >= offsets[-1]).mean()), float(offsets[-1]), int(off[-1].argmax())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self.named_buffers():  # a model that was fitted before this was kept has none
            state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
