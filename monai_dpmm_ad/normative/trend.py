# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How what healthy scans show at each place follows their people's age and sex."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.normative.covariates import NUM_TERMS
from monai_dpmm_ad.utils.distributed import gather_sums

__all__ = ["Trend"]

Array = NDArray[np.float32]

_UNIT = 1 << 20  # sums are whole multiples of 1 / _UNIT, as an atlas's are
_LARGEST = 1e4
_LEAST_WEIGHT = 1e-3
#: Products of terms that a symmetric matrix has.
_PAIRS = tuple((i, j) for i in range(NUM_TERMS) for j in range(i, NUM_TERMS))


class Trend(nn.Module):
    """Slopes of channels on a person's terms at the places of a lattice, by ridge regression.

    Feed scans with :meth:`update`, in any order and by any number of processes, then call :meth:`finish`. At each
    place, with weights w of the scans, terms x and values v, all about their weighted means there and all sums smoothed
    by a Gaussian,

        β = (Σ w x xᵀ + λ I)⁻¹ Σ w x v

    λ scans' worth of knowing nothing hold the slopes back: terms have a spread of 1. The scans of each fit and update,
    and in them of each site, have means of their own, so that another scanner is not taken for another age. Of what was
    fitted before, Σ w x xᵀ is kept as its mean over places times each place's weight.

    Args:
        shape: places along x, y and z.
        num_channels: C.
        ridge: λ.
        smoothing: standard deviation of the Gaussian, in places.
    """

    slopes: Tensor
    weight: Tensor
    products: Tensor
    num_scans: Tensor

    def __init__(
        self, shape: tuple[int, int, int], num_channels: int, ridge: float = 5.0, smoothing: float = 1.0
    ) -> None:
        super().__init__()
        self.shape, self.num_channels, self.ridge, self.smoothing = shape, num_channels, ridge, smoothing
        self.register_buffer("slopes", torch.zeros(num_channels, NUM_TERMS, *shape, dtype=torch.float16))
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.float16))
        self.register_buffer("products", torch.zeros(NUM_TERMS, NUM_TERMS, dtype=torch.float64))
        self.register_buffer("num_scans", torch.zeros((), dtype=torch.int64))
        #: (N, X, Y, Z) of x xᵀ and x v under None, of 1, x and v under each site, and how many "scans"; 8 MB for two
        #: channels and one site, which looking up does not need
        self._sums: dict[int | str | None, NDArray[np.int64]] = {}

    def update(self, terms: NDArray[np.float64], values: Array, weight: Array, site: int = 0) -> None:
        """Add a healthy scan.

        Args:
            terms: ``(3,)``, of its person.
            values: ``(C, X, Y, Z)``.
            weight: ``(X, Y, Z)``, share of each place that is foreground.
            site: number of the scan's site.
        """
        weighted = np.clip(np.where(weight > 0, values, 0).astype(np.float64), -_LARGEST, _LARGEST) * weight
        squares = np.multiply.outer(np.array([terms[i] * terms[j] for i, j in _PAIRS]), weight)
        moments = np.multiply.outer(terms, weighted).reshape(-1, *self.shape)
        self._add(None, np.concatenate([squares, moments]))
        self._add(site, np.concatenate([np.multiply.outer(np.array([1.0, *terms]), weight), weighted]))
        self._sums["scans"] = self._sums.get("scans", np.zeros((), np.int64)) + 1

    def _add(self, key: int | None, parts: NDArray[np.float64]) -> None:
        parts *= _UNIT
        units = np.rint(parts, out=parts).astype(np.int64)
        if key in self._sums:
            self._sums[key] += units
        else:
            self._sums[key] = units

    def finish(self) -> None:
        """Turn the scans seen (by all processes of ``torch.distributed``) into slopes, on top of what is known.

        Raises:
            NotFittedError: no scan was seen.
        """
        seen, self._sums = gather_sums(self._sums), {}
        if not seen:
            raise NotFittedError("`finish` needs a healthy scan with known covariates. Call `update` first.")
        count = int(seen.pop("scans"))
        weight, products, moments = self._about_means(self._smooth(seen.pop(None)), seen)
        before = self.weight.double().numpy() * float(self.num_scans)
        old = before[..., None, None] * self.products.numpy()
        slopes = np.moveaxis(self.slopes.double().numpy(), (0, 1), (-1, -2))
        ridge = self.ridge * np.eye(NUM_TERMS)
        moments = moments + (old + ridge) @ slopes
        solved = np.linalg.solve(products + old + ridge, moments)
        self.slopes.copy_(torch.from_numpy(np.moveaxis(solved, (-1, -2), (0, 1))))
        total = products.sum((0, 1, 2)) + old.sum((0, 1, 2))
        self.products.copy_(torch.from_numpy(total / max(weight.sum() + before.sum(), _LEAST_WEIGHT)))
        self.num_scans += count
        self.weight.copy_(torch.from_numpy((before + weight) / float(self.num_scans)))

    def _smooth(self, sums: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sums of all scans, ``(X, Y, Z, N)``."""
        sigma = (0.0, *(self.smoothing if size > 1 else 0.0 for size in self.shape))
        return np.moveaxis(ndimage.gaussian_filter(sums / _UNIT, sigma, mode="constant", truncate=3.0), 0, -1)

    def _about_means(
        self, sums: NDArray[np.float64], sites: Mapping[Any, NDArray[np.int64]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Σ w ``(X, Y, Z)``; about each site's means Σ w x xᵀ ``(X, Y, Z, 3, 3)`` and Σ w x v ``(X, Y, Z, 3, C)``."""
        pairs, xv = np.split(sums, [len(_PAIRS)], axis=-1)
        products, total = np.empty((*self.shape, NUM_TERMS, NUM_TERMS)), np.zeros(self.shape)
        for number, (i, j) in enumerate(_PAIRS):
            products[..., i, j] = products[..., j, i] = pairs[..., number]
        moments = xv.reshape(*self.shape, NUM_TERMS, self.num_channels)
        for site in sorted(sites):
            weight, x, v = np.split(self._smooth(sites[site]), [1, 1 + NUM_TERMS], axis=-1)
            mean = np.where(weight > _LEAST_WEIGHT, x / np.maximum(weight, _LEAST_WEIGHT), 0)[..., None]
            products -= mean * x[..., None, :]
            moments = moments - mean * v[..., None, :]
            total += weight[..., 0]
        return total, products, moments

    def expect(self, terms: NDArray[np.float64]) -> Tensor:
        """What a person's values differ by from those of the cohort's mean, ``(C, X, Y, Z)`` float32."""
        return torch.einsum("ctxyz,t->cxyz", self.slopes.float(), torch.from_numpy(terms).float())
