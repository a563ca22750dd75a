# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""New data for a fitted mixture, without the old."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.mixture import DirichletProcessMixture

DIM = 32


def draw(num_rows: int, modes: range, seed: int) -> Tensor:
    """Unit vectors (n, DIM) around some of 30 directions, which are always the same."""
    directions = torch.randn(30, DIM, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    mode = torch.randint(modes.start, modes.stop, (num_rows,), generator=generator)
    noise = torch.randn(num_rows, DIM, generator=generator)
    return torch.nn.functional.normalize(directions[mode] + 0.3 * noise, dim=1)


def run(mixture: DirichletProcessMixture, x: Tensor, epochs: int = 3) -> DirichletProcessMixture:
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(500):
            mixture.partial_fit(x[rows], len(x))
    return mixture


def fit(x: Tensor, num_components: int) -> DirichletProcessMixture:
    return run(DirichletProcessMixture(num_components, DIM).initialize(x), x)


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
