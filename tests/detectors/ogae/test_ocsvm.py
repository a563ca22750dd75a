# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.ocsvm_qp import solve_ocsvm_qp

from monai_dpmm_ad.detectors.ogae.ocsvm import differentiable_ocsvm, solve_ocsvm


def rbf(points: np.ndarray, gamma: float) -> np.ndarray:
    return np.exp(-gamma * ((points[:, None] - points[None]) ** 2).sum(-1))


def draw(n: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim))


def violation(kernel: np.ndarray, nu: float) -> float:
    """How far the solution is from the optimality conditions."""
    found = solve_ocsvm(kernel, nu)
    bound, gradient = 1 / (nu * len(kernel)), kernel @ found.alpha
    inside = (found.alpha > 0) & (found.alpha < bound)
    parts = [
        abs(found.alpha.sum() - 1),
        max(0.0, -found.alpha.min(), found.alpha.max() - bound),
        np.abs(gradient[inside] - found.rho).max(initial=0),
        (found.rho - gradient[found.alpha == 0]).max(initial=0),
        (gradient[found.alpha == bound] - found.rho).max(initial=0),
    ]
    return float(max(parts))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 60),
    dim=st.integers(1, 8),
    nu=st.floats(0.01, 1),
    gamma=st.floats(0.01, 10),
    seed=st.integers(0, 10_000),
)
def test_the_optimality_conditions_hold(n: int, dim: int, nu: float, gamma: float, seed: int) -> None:
    assert violation(rbf(draw(n, dim, seed), gamma), nu) < 1e-9


@pytest.mark.parametrize("nu", [1 / 12, 0.25, 0.5, 1.0])
def test_the_optimality_conditions_hold_where_nu_n_is_whole(nu: float) -> None:
    assert violation(rbf(draw(12, 3, 1), 0.4), nu) < 1e-9


def test_a_linear_kernel_is_solved() -> None:
    points = np.abs(draw(50, 6, 0)) + 0.1
    assert violation(points @ points.T, 0.1) < 1e-8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("nu", [0.13, 0.37, 0.81])
def test_it_agrees_with_a_general_solver(seed: int, nu: float) -> None:
    kernel = rbf(draw(15, 4, seed), 0.3)
    alpha, rho = solve_ocsvm_qp(kernel, nu)
    found = solve_ocsvm(kernel, nu)
    np.testing.assert_allclose(found.alpha, alpha, atol=1e-9)
    assert found.rho == pytest.approx(rho, abs=1e-9)


@pytest.mark.parametrize("nu", [0.13, 0.37, 0.81, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_pass_gradcheck(nu: float, seed: int) -> None:
    kernel = torch.tensor(rbf(draw(12, 3, seed), 0.3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: differentiable_ocsvm(k, nu), kernel, eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_equal_finite_differences_of_the_whole_qp(seed: int) -> None:
    points, weights, nu, step = draw(10, 3, seed), draw(1, 10, 99)[0], 0.33, 1e-5

    def loss(values: np.ndarray) -> float:
        alpha, rho = solve_ocsvm_qp(rbf(values, 0.3), nu)
        return float(weights @ alpha + 0.7 * rho)

    numeric = np.zeros_like(points)
    for index in np.ndindex(points.shape):
        shift = np.zeros_like(points)
        shift[index] = step
        numeric[index] = (loss(points + shift) - loss(points - shift)) / (2 * step)
    leaf = torch.tensor(points, requires_grad=True)
    alpha, rho = differentiable_ocsvm(torch.exp(-0.3 * (leaf[:, None] - leaf[None]).square().sum(-1)), nu)
    (torch.tensor(weights) @ alpha + 0.7 * rho).backward()
    np.testing.assert_allclose(leaf.grad, numeric, atol=1e-5 * np.abs(numeric).max())


def test_points_that_occur_twice_share_their_weight_and_keep_gradients_finite() -> None:
    points = draw(10, 2, 4)
    twice = np.concatenate([points, points])
    alpha, rho = solve_ocsvm(rbf(points, 0.3), 0.33).alpha, solve_ocsvm(rbf(points, 0.3), 0.33).rho
    found = solve_ocsvm(rbf(twice, 0.3), 0.33)
    np.testing.assert_allclose(found.alpha[:10] + found.alpha[10:], alpha, atol=1e-9)
    assert found.rho == pytest.approx(rho, abs=1e-9)
    kernel = torch.tensor(rbf(twice, 0.3), requires_grad=True)
    weights, offset = differentiable_ocsvm(kernel, 0.33)
    (weights @ weights + offset).backward()
    assert kernel.grad is not None
    assert kernel.grad.isfinite().all()
    assert kernel.grad.abs().max() < 1e3


def test_float32_kernels_are_taken() -> None:
    kernel = torch.tensor(rbf(draw(64, 16, 0), 1 / 16), dtype=torch.float32, requires_grad=True)
    alpha, rho = differentiable_ocsvm(kernel, 0.05)
    assert alpha.dtype == rho.dtype == torch.float32
    assert float(alpha.detach().sum()) == pytest.approx(1, abs=1e-6)
    (alpha.square().sum() + rho).backward()
    assert kernel.grad is not None
    assert kernel.grad.dtype == torch.float32


GOOD = rbf(draw(6, 2, 0), 0.5)
CENTRED = draw(40, 2, 0) - draw(40, 2, 0).mean(0)


@pytest.mark.parametrize(
    ("kernel", "nu", "message"),
    [
        (GOOD, 0.0, "`nu` must lie in"),
        (GOOD, 1.5, "`nu` must lie in"),
        (GOOD, float("nan"), "`nu` must lie in"),
        (GOOD[:3], 0.5, "`kernel` must have shape"),
        (GOOD[:1, :1], 0.5, "`kernel` must have shape"),
        (np.full((5, 5), np.nan), 0.5, "must be finite"),
        (np.ones((5, 5)), 0.5, "all identical"),
        (np.zeros((5, 5)), 0.5, "All features are zero"),
        (CENTRED @ CENTRED.T, 0.5, "surround"),
    ],
)
def test_degenerate_input_is_refused(kernel: np.ndarray, nu: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_ocsvm(kernel, nu)
