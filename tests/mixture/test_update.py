# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""New data for a fitted mixture, without the old."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.families import COVARIANCES

DIM = 32


def draw(num_rows: int, modes: range, seed: int) -> Tensor:
    """Unit vectors (n, DIM) around some of 30 directions, which are always the same."""
    directions = torch.randn(30, DIM, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    mode = torch.randint(modes.start, modes.stop, (num_rows,), generator=generator)
    noise = torch.randn(num_rows, DIM, generator=generator)
    return torch.nn.functional.normalize(directions[mode] + 0.3 * noise, dim=1)


def run(mixture: DirichletProcessMixture, x: Tensor, epochs: int = 3, adapt: bool = False) -> DirichletProcessMixture:
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(500):
            mixture.partial_fit(x[rows], len(x))
        if adapt:
            mixture.adapt(x)
    return mixture


def fit(x: Tensor, num_components: int, adapt: bool = False) -> DirichletProcessMixture:
    return run(DirichletProcessMixture(num_components, DIM).initialize(x), x, adapt=adapt)


@pytest.mark.parametrize(
    ("modes", "num_components"), [(range(20), 32), (range(25), 64)], ids=["the same modes", "five new modes"]
)
def test_an_update_is_within_one_per_cent_of_a_refit(modes: range, num_components: int) -> None:
    old, new = draw(4000, range(20), seed=1), draw(4000, modes, seed=2)
    held_out = torch.cat([draw(1000, range(20), seed=3), draw(1000, modes, seed=4)])
    refit = fit(torch.cat([old, new]), num_components).log_prob(held_out).mean()
    updated = fit(old, num_components)
    before = updated.log_prob(held_out).mean()
    updated.start_update()
    after = run(updated, new).log_prob(held_out).mean()
    assert after > before
    assert float(after) >= float(refit) - 0.01 * abs(float(refit))


@pytest.mark.parametrize(
    "num_components", [20, 32, 64], ids=["as many as old modes", "as many as all modes", "to spare"]
)
def test_an_update_with_new_modes_alone_is_within_one_per_cent_of_a_refit(num_components: int) -> None:
    """All components are taken, and none is near; without ``adapt`` the update stays more than a tenth short."""
    old, new = draw(4000, range(20), seed=1), draw(4000, range(20, 30), seed=2)
    held_out = torch.cat([draw(1000, range(20), seed=3), draw(1000, range(20, 30), seed=4)])
    refit = float(fit(torch.cat([old, new]), num_components, adapt=True).log_prob(held_out).mean())
    mixture = fit(old, num_components, adapt=True)
    state = mixture.state_dict()
    updated = {}
    for adapt in (False, True):
        mixture.load_state_dict(state)
        mixture.start_update()
        updated[adapt] = float(run(mixture, new, adapt=adapt).log_prob(held_out).mean())
    assert updated[True] >= refit - 0.01 * abs(refit)
    assert updated[True] > updated[False] + 0.1 * abs(refit)
    assert float(mixture.state.statistics.counts.sum()) == pytest.approx(8000)


def test_an_update_without_new_modes_opens_no_component() -> None:
    mixture = fit(draw(4000, range(20), seed=1), 20, adapt=True)
    new = draw(2000, range(20), seed=2)
    mixture.start_update()
    run(mixture, new)
    before = mixture.statistic_sums.clone()
    assert mixture.adapt(new) == 0
    assert torch.equal(mixture.statistic_sums, before)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("num_components", [1, 8])
def test_opened_components_keep_what_was_learnt(covariance: str, num_components: int) -> None:
    """Every likelihood; more components than new rows, and a single one, which cannot be given away."""
    old, new = draw(300, range(5), seed=1), draw(6, range(20, 22), seed=2)
    mixture = DirichletProcessMixture(num_components, DIM, covariance).fit([old], max_epochs=3)
    mixture.start_update()
    mixture.partial_fit(new, len(new))
    mixture.adapt(new)
    mixture.partial_fit(new, len(new))
    statistics = mixture.state.statistics
    assert float(statistics.size) == pytest.approx(306)
    assert float(statistics.counts.sum()) == pytest.approx(306)
    assert torch.isfinite(mixture.log_prob(torch.cat([old, new]))).all()
    total = mixture.prior.family.make_features(torch.cat([old, new]).double(), mixture.prior.scale).sum(0)
    if covariance in ("diagonal", "rotated", "spherical"):  # the others keep more than the sums of what is written
        torch.testing.assert_close(statistics.sums.sum(0), total, rtol=1e-4, atol=1e-3)


def test_an_update_adds_to_the_statistics() -> None:
    old, new = draw(600, range(20), seed=1), draw(200, range(20), seed=2)
    mixture = fit(old, 32)
    before = mixture.state.statistics
    mixture.start_update()
    mixture = run(mixture, new)
    after = mixture.state.statistics
    assert float(after.size) == 800
    assert float(after.counts.sum()) == pytest.approx(800)
    assert bool((after.counts >= before.counts - 1e-9).all())


def test_an_update_survives_a_move_and_ends_with_a_load() -> None:
    old, new = draw(600, range(20), seed=1), draw(200, range(20), seed=2)
    mixture, moved = fit(old, 32), fit(old, 32)
    state = mixture.state_dict()
    mixture.start_update()
    moved.start_update()
    moved.to("cpu")
    assert torch.equal(run(mixture, new).statistic_counts, run(moved, new).statistic_counts)
    assert moved.adapt(old) == 0
    moved.load_state_dict(state)
    assert moved.adapt(old) >= 0
    assert float(run(moved, new, epochs=20).statistic_size) < 250  # a fit of the new data alone again


def test_what_cannot_be_updated_is_refused() -> None:
    with pytest.raises(NotFittedError, match="has not been fitted"):
        DirichletProcessMixture(4, DIM).start_update()
    with pytest.raises(ValueError, match="`inference` must be natural"):
        DirichletProcessMixture(4, DIM, inference="memoized").initialize(draw(50, range(20), seed=1)).start_update()
