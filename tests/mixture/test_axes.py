# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Shared axes: what they are estimated to, and what they buy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.axes import refine_axes, whiten_within

DIM = 16


def draw(num_rows: int, seed: int, num_clusters: int = 6, spread: float = 0.7) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters that are diagonal along one set of oblique axes: rows (n, DIM), labels, and the axes' mixing matrix."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    centres = 3.0 * torch.randn(num_clusters, DIM, generator=generator, dtype=torch.float64)
    deviation = torch.exp(spread * torch.randn(num_clusters, DIM, generator=generator, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1 + seed)
    labels = torch.randint(num_clusters, (num_rows,), generator=generator)
    noise = torch.randn(num_rows, DIM, generator=generator, dtype=torch.float64)
    return (centres[labels] + deviation[labels] * noise) @ mixing.T, labels, mixing


def take_residuals(x: Tensor, labels: Tensor) -> Tensor:
    means = torch.stack([x[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
    return x - means[labels]


def test_axes_whiten_the_pooled_covariance() -> None:
    x, labels, mixing = draw(20_000, 0)
    residual = (
        take_residuals(x, labels) @ torch.linalg.inv(mixing).T @ torch.diag(torch.linspace(0.5, 2.0, DIM).double())
    )
    y = residual @ whiten_within(residual, labels, residual.var(0)).T
    torch.testing.assert_close(y.T @ y / len(y), torch.eye(DIM).double(), atol=0.02, rtol=0)


def test_few_rows_are_shrunk_towards_independent_dimensions() -> None:
    """Of 20 rows in 16 dimensions an eigenvalue would be near nothing."""
    residual = torch.randn(20, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = whiten_within(residual, torch.zeros(20, dtype=torch.long), torch.ones(DIM).double())
    scales = torch.linalg.svdvals(axes)
    assert scales.max() / scales.min() < 3.0


def test_refined_axes_are_those_that_the_data_were_made_along() -> None:
    """What whitens knows the axes up to a rotation; the components' different shapes tell the rest."""
    x, labels, mixing = draw(50_000, 0)
    residual = take_residuals(x, labels)
    start = whiten_within(residual, labels, x.var(0))
    product = refine_axes(start, residual, labels) @ mixing  # a scaled permutation, if they are found
    relative = product.abs() / product.abs().amax(1, keepdim=True)
    assert relative.argmax(1).unique().numel() == DIM
    assert relative.sort(1).values[:, -2].max() < 0.05
    before = (start @ mixing).abs()
    assert (before / before.amax(1, keepdim=True)).sort(1).values[:, -2].max() > 0.3


def test_refining_raises_the_likelihood_and_stops() -> None:
    x, labels, _ = draw(5_000, 0)
    residual = take_residuals(x, labels)

    def measure(axes: Tensor) -> float:
        y = residual @ axes.T
        shares = torch.bincount(labels) / len(labels)
        logs = torch.stack([y[labels == k].square().mean(0).log().sum() for k in range(6)])
        return float(torch.linalg.slogdet(axes).logabsdet - 0.5 * (shares * logs).sum())

    start = whiten_within(residual, labels, x.var(0))
    refined = refine_axes(start, residual, labels)
    assert measure(refined) > measure(start) + 0.5
    assert measure(refine_axes(refined, residual, labels)) == pytest.approx(measure(refined), abs=0.01)


@pytest.mark.parametrize("num_rows", [300, 3000])
def test_oblique_clusters_have_more_held_out_density(num_rows: int) -> None:
    x, held_out = draw(num_rows, 0)[0].float(), draw(3000, 1)[0].float()
    values = {
        covariance: float(DirichletProcessMixture(12, DIM, covariance).fit([x]).log_prob(held_out).mean())
        for covariance in ("diagonal", "rotated")
    }
    assert values["rotated"] > values["diagonal"] + 2.0


def test_the_density_is_one_of_the_data_themselves() -> None:
    """With axes far from unit volume: the log density of one component is that of its normal distribution."""
    x = 0.1 * draw(2000, 0, num_clusters=1)[0]
    mixture = DirichletProcessMixture(1, DIM, "rotated").fit([x])
    posterior = mixture.posterior
    normal = torch.distributions.MultivariateNormal(
        posterior.means[0].double(), precision_matrix=posterior.precisions[0].double()
    )
    torch.testing.assert_close(mixture.log_prob(x).double(), normal.log_prob(x), rtol=1e-4, atol=1e-3)
    assert abs(float(mixture.prior.scale.log_volume)) > 1.0
    bound = float(mixture.log_prob_bound())
    assert bound == pytest.approx(float(normal.log_prob(normal.mean)), abs=1e-3)
    assert not math.isclose(bound, float(mixture.log_prob(x).max()), abs_tol=1e-3)


def test_a_state_with_axes_loads_and_one_without_does_not() -> None:
    x = draw(200, 0)[0].float()
    mixture = DirichletProcessMixture(4, DIM, "rotated").fit([x])
    other = DirichletProcessMixture(4, DIM, "rotated")
    other.load_state_dict(mixture.state_dict(), strict=True)
    assert torch.equal(other.log_prob(x), mixture.log_prob(x))
    with pytest.raises(RuntimeError, match="data_axes"):
        other.load_state_dict(DirichletProcessMixture(4, DIM).state_dict())


@pytest.mark.parametrize("num_rows", [2000, 5000])
@pytest.mark.parametrize("oblique", [False, True])
def test_a_few_thousand_rows_do_not_make_axes_overfit(num_rows: int, oblique: bool) -> None:
    """In 192 dimensions axes are 37 000 numbers: where there is nothing to turn, rotated is as good as diagonal."""
    dim = 192
    generator = torch.Generator().manual_seed(0)
    centres, spread = torch.randn(20, dim, generator=generator), 0.5 * torch.randn(20, dim, generator=generator)
    labels = torch.randint(20, (num_rows + 1000,), generator=generator)
    noise = 0.5 * spread.exp()[labels] * torch.randn(len(labels), dim, generator=generator)
    mixing = torch.randn(dim, dim, generator=generator) / dim**0.5
    x = centres[labels] + (noise @ mixing if oblique else noise)
    train, held_out = x[:num_rows], x[num_rows:]
    values = {}
    for covariance in ("diagonal", "rotated"):
        mixture = DirichletProcessMixture(60, dim, covariance).fit(train.split(500), max_epochs=4)
        values[covariance] = float(mixture.log_prob(held_out).mean())
        if covariance == "diagonal" and not oblique:  # nor do the components' own variances
            assert float(mixture.log_prob(train).mean()) - values[covariance] < 5.0
    if oblique:
        assert values["rotated"] > values["diagonal"] + 20.0
    else:
        assert values["rotated"] > values["diagonal"] - 0.5
