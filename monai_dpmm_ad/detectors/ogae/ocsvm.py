# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The one-class SVM's dual, solved exactly, and its gradients with respect to the kernel matrix.

    α = argmin ½ αᵀ K α   s.t. Σα = 1, 0 ≤ α ≤ C = 1/(ν n)        f(z) = Σ_i α_i k(z_i, z) − ρ

Which α are 0, at C or free between them comes from libsvm and is completed by a primal active-set method; the free ones
and ρ then solve a linear system (F: free, B: at C), whose inverse also carries the gradients:

    [ K_FF  −1 ] [ α_F ]   [ −C K_FB 1 ]        ∂L/∂K = −½ (u αᵀ + α uᵀ),   u_F from the same matrix
    [ −1ᵀ   0  ] [  ρ  ] = [ C|B| − 1  ]        with the right-hand side (∂L/∂α_F, ∂L/∂ρ), 0 elsewhere
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from sklearn.svm import OneClassSVM
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["OCSVMSolution", "differentiable_ocsvm", "solve_ocsvm"]

Array = NDArray[np.float64]

_LIBSVM_TOLERANCE = 1e-6
#: In units of the kernel's largest diagonal element: below it a multiplier counts as zero.
_KKT_TOLERANCE = 1e-10


@dataclass(frozen=True)
class OCSVMSolution:
    """A solved one-class SVM.

    Args:
        alpha: (n,), sums to 1, each in [0, 1/(ν n)].
        rho: offset of the decision function; (Kα)_i of every free point.
        free: (n,) Boolean, points strictly between the bounds.
        upper: (n,) Boolean, points at the upper bound.
        edges: rows between which ρ lies where no point is free: the largest (Kα)_i at the upper bound and the least at
            zero, or the first alone; empty otherwise.
    """

    alpha: Array
    rho: float
    free: NDArray[np.bool_]
    upper: NDArray[np.bool_]
    edges: tuple[int, ...] = ()


def solve_ocsvm(kernel: Array, nu: float) -> OCSVMSolution:
    """Solve the dual of the one-class SVM to the precision of float64.

    Where no point is free, ρ lies in an interval; its middle is taken, as libsvm does, or its only end (ν = 1).

    Args:
        kernel: (n, n), symmetric positive semi-definite.
        nu: ν in (0, 1], an upper bound of the share of outliers and a lower bound of that of support vectors.

    Returns:
        The solution; where it is not unique (points that occur twice), the one of least norm on its active set.

    Raises:
        ValueError: ν out of range, a matrix that is no kernel, points that are all identical, or points that surround
            the origin of the kernel's feature space, where the decision function is zero everywhere.

    Reference:
        Schölkopf et al. 2001, Estimating the support of a high-dimensional distribution, equations 11 to 13. The
        active-set method: Nocedal and Wright 2006, algorithm 16.3.
    """
    check_nu(nu)
    scale = _check_kernel(kernel)
    bound = 1.0 / (nu * len(kernel))
    alpha = _start(kernel, nu, bound)
    solution = _finish_active_set(kernel, alpha, bound, _KKT_TOLERANCE * scale)
    if solution.alpha @ kernel @ solution.alpha <= 1e-12 * scale:
        raise ValueError(
            "`kernel` must separate the points from the origin, got points that surround it. "
            "Use the rbf kernel, or features that are not centred."
        )
    return solution


def check_nu(nu: float) -> None:
    """Check ν.

    Raises:
        ValueError: outside (0, 1], NaN included.
    """
    if not 0 < nu <= 1:
        raise ValueError(f"`nu` must lie in (0, 1], got {nu}. It is the largest share of outliers, 0.03 for example.")


def _check_kernel(kernel: Array) -> float:
    """The largest diagonal element of a usable kernel matrix."""
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) < 2:
        raise ValueError(f"`kernel` must have shape (n, n) with n ≥ 2, got {kernel.shape}.")
    if not np.isfinite(kernel).all():
        raise ValueError("`kernel` must be finite, got NaN or infinity. Lower the learning rate or scale the features.")
    scale = float(kernel.diagonal().max())
    if not scale > 0 or float(kernel.diagonal().min()) < 0:
        raise ValueError(
            f"`kernel` must have a non-negative diagonal that is not zero, got values up to {scale:g}. "
            "All features are zero, or this is no kernel."
        )
    if float(np.ptp(kernel)) <= 1e-12 * scale:
        raise ValueError("`kernel` must come from points that differ, got points that are all identical.")
    return scale


def _start(kernel: Array, nu: float, bound: float) -> Array:
    """A feasible α close to the optimum, snapped to the bounds."""
    if bound * len(kernel) * (1 - 1e-12) <= 1:  # ν = 1: one feasible point
        return np.full(len(kernel), 1 / len(kernel))
    machine = OneClassSVM(kernel="precomputed", nu=nu, tol=_LIBSVM_TOLERANCE * kernel.diagonal().max())
    machine.fit(kernel)
    alpha = np.zeros(len(kernel))
    alpha[machine.support_] = machine.dual_coef_[0] * bound  # scikit-learn's sum to ν n, each at most 1
    alpha[alpha < 1e-9 * bound] = 0
    alpha[alpha > (1 - 1e-9) * bound] = bound
    free = (alpha > 0) & (alpha < bound)
    missing = 1 - alpha.sum()
    if free.any():
        room = np.where(free, bound - alpha if missing > 0 else alpha, 0)
        if room.sum() > abs(missing):
            alpha += missing * room / room.sum()
    return alpha


def _finish_active_set(kernel: Array, alpha: Array, bound: float, tolerance: float) -> OCSVMSolution:
    """Exchange active bounds until the optimality conditions hold."""
    lower, upper = alpha <= 0, alpha >= bound
    rho = 0.0
    for _ in range(20 * len(kernel)):
        free = ~lower & ~upper
        if free.any():
            target, rho = _solve_free(kernel, free, upper, bound)
            step, blocking = _longest_step(alpha, target, free, bound)
            alpha = alpha + step * (target - alpha)
            if blocking is not None:
                at_upper = target[blocking] > alpha[blocking]
                alpha[blocking] = bound if at_upper else 0.0
                (upper if at_upper else lower)[blocking] = True
                continue
        gradient = kernel @ alpha
        released = _most_violated(gradient, lower, upper, rho if free.any() else None, tolerance)
        if not released:
            edges = () if free.any() else _edges(gradient, lower, upper)
            if edges:
                rho = float(gradient[list(edges)].mean())
            return OCSVMSolution(alpha, float(rho), free, upper, edges)
        lower[list(released)] = False
        upper[list(released)] = False
    raise ValueError(
        "`kernel` must be positive semi-definite, got a matrix for which the optimum is not found. "
        "Check it with numpy.linalg.eigvalsh."
    )


def _solve_free(kernel: Array, free: NDArray[np.bool_], upper: NDArray[np.bool_], bound: float) -> tuple[Array, float]:
    """The optimum of the free α with the others fixed: α (n,) and ρ."""
    right = np.append(-bound * kernel[np.ix_(free, upper)].sum(1), bound * upper.sum() - 1)
    found = solve_kkt(kernel, free, right)
    target = np.where(upper, bound, 0.0)
    target[free] = found[:-1]
    return target, float(found[-1])


def solve_kkt(kernel: Array, free: NDArray[np.bool_], right: Array) -> Array:
    """Solve the linear system above; the solution of least norm where it is singular.

    Args:
        kernel: (n, n).
        free: (n,) Boolean, F of them true.
        right: (F + 1,).

    Returns:
        (F + 1,).
    """
    size = int(free.sum())
    matrix = np.zeros((size + 1, size + 1))
    matrix[:size, :size] = kernel[np.ix_(free, free)]
    matrix[size, :size] = matrix[:size, size] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("error", linalg.LinAlgWarning)
        try:
            return np.asarray(linalg.solve(matrix, right, assume_a="sym"))
        except (linalg.LinAlgError, linalg.LinAlgWarning):
            return np.asarray(linalg.lstsq(matrix, right)[0])


def _longest_step(alpha: Array, target: Array, free: NDArray[np.bool_], bound: float) -> tuple[float, int | None]:
    """How far α may go towards the target, in [0, 1], and the free point that stops it."""
    direction = target - alpha
    room = np.full(len(alpha), np.inf)
    down, up = free & (target < 0), free & (target > bound)
    room[down] = alpha[down] / -direction[down]
    room[up] = (bound - alpha[up]) / direction[up]
    blocking = int(room.argmin())
    return (float(room[blocking]), blocking) if room[blocking] < 1 else (1.0, None)


def _most_violated(
    gradient: Array, lower: NDArray[np.bool_], upper: NDArray[np.bool_], rho: float | None, tolerance: float
) -> tuple[int, ...]:
    """The fixed point whose release lowers the objective fastest; a pair of them where none is free, since Σα = 1."""
    low = np.where(lower, gradient, np.inf)
    high = np.where(upper, gradient, -np.inf)
    least, largest = int(low.argmin()), int(high.argmax())
    if rho is None:
        return (least, largest) if low[least] < high[largest] - tolerance else ()
    gains = (rho - low[least], high[largest] - rho)
    if max(gains) <= tolerance:
        return ()
    return (least,) if gains[0] >= gains[1] else (largest,)


def _edges(gradient: Array, lower: NDArray[np.bool_], upper: NDArray[np.bool_]) -> tuple[int, ...]:
    ends = (int(np.where(upper, gradient, -np.inf).argmax()),)
    return (*ends, int(np.where(lower, gradient, np.inf).argmin())) if lower.any() else ends


class _DifferentiableOCSVM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Tensor, nu: float) -> tuple[Tensor, Tensor]:
        matrix = kernel.detach().double().cpu().numpy()
        matrix = (matrix + matrix.T) / 2
        ctx.matrix, ctx.solution = matrix, solve_ocsvm(matrix, nu)
        return kernel.new_tensor(ctx.solution.alpha), kernel.new_tensor(ctx.solution.rho)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_alpha: Tensor, grad_rho: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        solution: OCSVMSolution = ctx.solution
        outer = np.zeros(len(solution.alpha))
        if solution.free.any():
            right = np.append(grad_alpha.double().cpu().numpy()[solution.free], float(grad_rho))
            outer[solution.free] = -solve_kkt(ctx.matrix, solution.free, right)[:-1]
        else:  # α does not move, ρ is the mean of the edges' (Kα)_i
            outer[list(solution.edges)] = float(grad_rho) / len(solution.edges)
        gradient = np.outer(outer, solution.alpha)
        return grad_alpha.new_tensor((gradient + gradient.T) / 2), None


def differentiable_ocsvm(kernel: Tensor, nu: float) -> tuple[Tensor, Tensor]:
    """Solve the one-class SVM of a kernel matrix, with exact gradients.

    The system is solved in float64 on the CPU, wherever the kernel is; its symmetric part counts.

    Args:
        kernel: (n, n).
        nu: ν in (0, 1].

    Returns:
        α (n,) and ρ (0-dim), in the kernel's dtype and on its device.

    Raises:
        ValueError: as :func:`solve_ocsvm`.

    Reference:
        Pinon and Lartizien 2025, arXiv 2507.21164, who differentiate a convex-optimisation layer; the KKT system is
        ours.
    """
    alpha, rho = _DifferentiableOCSVM.apply(kernel, nu)
    return alpha, rho
