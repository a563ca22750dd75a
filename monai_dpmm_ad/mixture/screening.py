# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which few components matter to a datum: a coarse product for all of them, the exact one for those few.

Nearly every component ends without responsibility for a given datum, yet an expectation step spends its time on them:
one product for their densities, a softmax over them and a second product that adds zeros. Here the first product runs
in bfloat16 where the processor has it, the L best components by it are evaluated again in float32, and statistics are
a sparse product. A datum for which more than L components could matter is left to the dense way, so nothing is lost:
what is left out is more than ``MARGIN`` nats behind the best.

The coarse product is wrong by about 2⁻⁸ ‖s ∘ f‖ ‖w_k / s‖ at most, by Cauchy and Schwarz for any s > 0. The worst case
of the two factors' rounding (2⁻⁸ each) and the result's is three times that, but needs every rounding error to have the
same sign; for errors that are independent and of mean zero, Hoeffding's inequality makes the bound fail with a
probability below 2 exp(−c/8), where c, between 1 and F, is the number of terms that the sum is made of, effectively.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import Coefficients
from monai_dpmm_ad.ops.precision import supports_bfloat16

__all__ = ["LEAST_SIZE_FIT", "LEAST_SIZE_SCORE", "MARGIN", "Candidates", "Screen"]
__all__ += ["compute_coarse", "find_candidates", "find_largest", "make_screen", "take_largest"]

NUM_CANDIDATES = 6  # of real embeddings 95 in 100 have no more components within the margin
MARGIN = 14.0  # nats: a component further behind has a responsibility below 1e-6
LEAST_SIZE_FIT, LEAST_SIZE_SCORE = 50_000, 250_000  # F·K: with less the dense way, two products or one, is as fast
LENGTH_ROWS = 512  # squared at a time
ROUNDING = 2.0**-8  # relative, of bfloat16


class Screen(NamedTuple):
    """The coefficients of a log density that is linear in its features, in the forms that screening needs.

    Args:
        weight: (K, F), w, one row a component.
        offset: (K,).
        coarse: (F, K), w less its mean over components, in bfloat16 where that is fast: only differences matter.
        scaling: (F,), s, which balances features and weights.
        error: 0-dim, 2⁻⁸ max_k ‖w_k / s‖; 0 where ``coarse`` is float32.
    """

    weight: Tensor
    offset: Tensor
    coarse: Tensor
    scaling: Tensor
    error: Tensor


class Candidates(NamedTuple):
    """The components that can matter to each datum.

    Args:
        component: (n, L), the L best by the coarse product, best first.
        log_prob: (n, L), laid out by column, their log density, exact; −inf where a component is behind the margin.
        complete: (n,) bool, whether every other component is further behind than the margin.
    """

    component: Tensor
    log_prob: Tensor
    complete: Tensor


def make_screen(coefficients: Any, least_size: int) -> Screen | None:
    """Prepare coefficients for screening, where it pays.

    Args:
        coefficients: of a family.
        least_size: F·K from which on it pays.

    Returns:
        None where the dense way is as good or the only one: a family whose log density is not linear in its features,
        few components or dimensions, float64, and other devices than the CPU, where it would have to wait for a list of
        rows.
    """
    if not isinstance(coefficients, Coefficients):
        return None
    weight, offset = coefficients.weight.T, coefficients.offset
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    if weight.numel() < least_size or weight.shape[0] <= NUM_CANDIDATES:
        return None
    weight = weight.contiguous()
    coarse = weight - weight.mean(0)
    # Features are about as large as weights are small, y² ~ 1/λ: so each term counts alike on both sides.
    scaling = coarse.square().mean(0).sqrt().clamp_(min=1e-30)
    error = ROUNDING * torch.linalg.vector_norm(coarse / scaling, dim=1).amax()
    if not supports_bfloat16(weight.device):
        return Screen(weight, offset, coarse.T, scaling, torch.zeros_like(error))
    return Screen(weight, offset, coarse.to(torch.bfloat16).T, scaling, error)


def find_candidates(screen: Screen, features: Tensor, margin: float) -> Candidates:
    """Find the components that can matter to each datum.

    Args:
        screen: the coefficients.
        features: (n, F), float32.
        margin: how far behind the best a component must be to be left out, nats.
    """
    coarse = compute_coarse(screen, features)
    slack = margin + 2.0 * screen.error * _measure_length(features, screen.scaling)
    value, index, rounding = take_largest(coarse, NUM_CANDIDATES, slack)
    behind = value[:, :1] - value > slack + rounding * value[:, :1].abs()
    return Candidates(index, _evaluate(screen, features, index, ~behind), behind[:, -1])


def compute_coarse(screen: Screen, features: Tensor) -> Tensor:
    """The log density of features (n, F) under each component, (n, K), but for rounding and what all have alike."""
    return torch.add(features.to(screen.coarse.dtype) @ screen.coarse, screen.offset)


def find_largest(values: Tensor) -> Tensor:
    """Where the largest value of each row (n, K) is, or one as large up to rounding: (n,); float32 is overwritten."""
    if values.dtype != torch.float32:
        return values.argmax(1)
    return take_largest(values, 1, values.new_zeros(len(values), 1))[1][:, 0]


def take_largest(values: Tensor, count: int, slack: Tensor) -> tuple[Tensor, Tensor, float]:
    """Take the largest values of each row and where they are, several times as fast as ``topk``.

    The column's number replaces the last bits of each value, so that a plain maximum, which is fast, finds both.

    Args:
        values: (n, K), float32; overwritten.
        count: the most to take, ≤ K.
        slack: (n, 1), non-negative: the search ends with the first L whose last value is further than that behind the
            first in every row.

    Returns:
        values (n, L), falling, and their columns (n, L), int64; values and order are right up to the relative rounding
        that is the third.
    """
    num_columns = values.shape[1]
    bits = (num_columns - 1).bit_length()
    rounding = 2.0 ** (bits - 22)
    columns = torch.arange(num_columns, dtype=torch.int32, device=values.device)
    values.view(torch.int32).bitwise_and_(-1 << bits).bitwise_or_(columns)
    found: list[Tensor] = []
    places: list[Tensor] = []
    end = torch.full_like(slack, -torch.inf)
    while len(found) < count and not (found and bool((found[-1] < end).all())):
        best = values.amax(1, keepdim=True)
        if not found:
            end = best - slack - rounding * best.abs()
        place = best.view(torch.int32).bitwise_and((1 << bits) - 1).long().clamp_(max=num_columns - 1)  # NaN: anywhere
        values.scatter_(1, place, -torch.inf)
        found.append(best)
        places.append(place)
    return torch.cat(found, 1), torch.cat(places, 1), rounding


def _measure_length(features: Tensor, scaling: Tensor) -> Tensor:
    """‖s ∘ f‖ of each row (n, F): (n, 1); a few rows at a time and in one place, so that squares stay in the cache."""
    squares = features.new_empty(min(LENGTH_ROWS, features.shape[0]), features.shape[1])
    weight = scaling.square()
    parts = [torch.mul(rows, rows, out=squares[: len(rows)]) @ weight for rows in features.split(LENGTH_ROWS)]
    return torch.cat(parts).sqrt_()[:, None]


def _evaluate(screen: Screen, features: Tensor, index: Tensor, wanted: Tensor) -> Tensor:
    """The log density of the wanted pairs of a datum and one of its components (n, L), by column; −inf elsewhere."""
    _accept_sparse_tensors()
    chosen = index[wanted]
    rows = torch.nn.functional.pad(wanted.sum(1).cumsum(0), (1, 0))
    size = (index.shape[0], screen.weight.shape[0])
    pattern = torch.sparse_csr_tensor(rows, chosen, screen.offset[chosen], size, check_invariants=False)
    log_prob = torch.sparse.sampled_addmm(pattern, features, screen.weight.T).values()
    found = torch.full_like(index, -torch.inf, dtype=log_prob.dtype).masked_scatter_(wanted, log_prob)
    return found.T.contiguous().T


@functools.cache
def _accept_sparse_tensors() -> None:
    """Make torch's remark, once a process, that this layout is young, where nobody has to read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)
