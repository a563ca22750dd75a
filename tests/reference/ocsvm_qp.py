# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Slow oracle of the one-class SVM's dual: box-constrained least squares, and a root search for ρ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import brentq, lsq_linear

__all__ = ["solve_ocsvm_qp"]


def solve_ocsvm_qp(kernel: NDArray[np.float64], nu: float) -> tuple[NDArray[np.float64], float]:
    """Minimise ½ αᵀ K α with Σα = 1 and 0 ≤ α ≤ 1/(ν n) by its Lagrangian in ρ.

    For a fixed ρ, ½ αᵀKα − ρ Σα over the box is bounded least squares; Σα grows with ρ.

    Args:
        kernel: (n, n), positive definite.
        nu: in (0, 1), ν n not an integer.

    Returns:
        α (n,) and ρ.
    """
    n = len(kernel)
    factor = cholesky(kernel, lower=True)
    ones = solve_triangular(factor, np.ones(n), lower=True)

    def alpha(rho: float) -> NDArray[np.float64]:
        return lsq_linear(factor.T, rho * ones, bounds=(0, 1 / (nu * n)), method="bvls", tol=1e-15).x

    rho = brentq(lambda value: alpha(value).sum() - 1, 0, kernel.max() + 1, xtol=1e-15, rtol=1e-14)
    return alpha(rho), rho
