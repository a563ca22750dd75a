# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.ocsvm_qp import solve_ocsvm_qp
from sklearn.gaussian_process.kernels import RBF
from sklearn.svm import OneClassSVM

from monai_dpmm_ad.detectors.ogae.kernels import compute_kernel, resolve_gamma, standardize
from monai_dpmm_ad.detectors.ogae.loss import MODES, compute_guided_loss


def draw(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_rbf_kernel_is_scikit_learns() -> None:
    x, y = draw(5, 3), draw(4, 3, 1)
    expected = RBF(length_scale=(0.5 / 0.7) ** 0.5)(x.numpy(), y.numpy())
    np.testing.assert_allclose(compute_kernel(x, y, "rbf", 0.7), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["scale", "auto"])
def test_gamma_is_scikit_learns(name: str) -> None:
    x = 3 * draw(20, 4)
    machine = OneClassSVM(gamma=name).fit(x.numpy())
    assert resolve_gamma(name, x) == pytest.approx(machine._gamma)


def test_gamma_is_taken_as_text() -> None:
    assert resolve_gamma("0.25", draw(3, 2)) == 0.25


@pytest.mark.parametrize(
    ("gamma", "message"), [("skale", "Did you mean 'scale'"), (0, "positive"), ("nan", "positive")]
)
def test_a_wrong_gamma_is_refused(gamma: str | float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_gamma(gamma, draw(3, 2))


def test_standardized_latents_have_unit_variance_and_only_rbf_is_centred() -> None:
    x = 5 + 3 * draw(100, 3)
    scaled, shift, scale = standardize(x, "rbf")
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(scaled.var(0, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close((x - shift) / scale, scaled)
    assert standardize(x, "linear")[0].mean() > 1


def test_the_loss_is_that_of_the_whole_qp() -> None:
    z = draw(24, 3)
    support, judged = (standardize(half, "rbf")[0].numpy() for half in z.split(12))
    gamma = 1 / (3 * support.var())
    alpha, rho = solve_ocsvm_qp(RBF((0.5 / gamma) ** 0.5)(support), 0.3)
    decision = RBF((0.5 / gamma) ** 0.5)(judged, support) @ alpha - rho
    expected = np.maximum(-decision, 0).mean()
    assert expected > 0
    assert float(compute_guided_loss(z, nu=0.3)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_gradients_pass_gradcheck(kernel: str) -> None:
    z = draw(24, 3, 3)
    z = (z.abs() + 0.3 if kernel == "linear" else z).requires_grad_()
    # ``both`` only: the others stop gradients on purpose, so they are no derivative of the loss.
    assert torch.autograd.gradcheck(lambda x: compute_guided_loss(x, "both", kernel, "auto", 0.3), z, atol=1e-6)


def test_each_mode_moves_its_own_half() -> None:
    gradients = {}
    for mode in MODES:
        z = draw(40, 3).requires_grad_()
        compute_guided_loss(z, mode, gamma="auto", nu=0.2).backward()
        gradients[mode] = z.grad
    assert gradients["compactor"][:20].abs().max() == 0
    assert gradients["compactor"][20:].abs().max() > 0
    assert gradients["expander"][20:].abs().max() == 0
    assert gradients["expander"][:20].abs().max() > 0
    torch.testing.assert_close(gradients["both"], gradients["compactor"] + gradients["expander"])


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        (draw(40, 3), {"mode": "compacter"}, "Did you mean 'compactor'"),
        (draw(40, 3), {"kernel": "poly"}, "`kernel` must be one of"),
        (draw(40, 3), {"nu": 2.0}, "`nu` must lie in"),
        (draw(3, 3), {}, "n ≥ 4"),
        (torch.ones(40, 3), {}, "all identical"),
    ],
)
def test_bad_input_is_refused(latents: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_guided_loss(latents, **options)
