# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import OneClassSVM

from monai_dpmm_ad.detectors.ogae.latent_svm import LatentSVM


def draw(n: int, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def fitted(kernel: str = "rbf", nu: float = 0.1) -> LatentSVM:
    machine = LatentSVM(4, kernel, nu=nu)
    latents = draw(200)
    machine.fit(latents.abs() + 0.2 if kernel == "linear" else latents)
    return machine


def test_the_decision_is_scikit_learns() -> None:
    train, new = draw(200).numpy(), draw(50, seed=1)
    machine = fitted()
    mean, std = train.mean(0), train.std(0)
    peer = OneClassSVM(nu=0.1, gamma="scale", tol=1e-9).fit((train - mean) / std)
    expected = peer.decision_function((new.numpy() - mean) / std) / (0.1 * 200)
    np.testing.assert_allclose(machine.decide(new), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_scores_fall_with_the_decision_and_are_not_negative(kernel: str) -> None:
    machine = fitted(kernel)
    new = draw(300, seed=2).abs() * 2
    order = machine.decide(new).argsort(descending=True)
    scores = machine.score(new)[order]
    assert bool((scores >= 0).all())
    assert bool((scores.diff() >= -1e-5).all())


def test_the_share_of_outliers_is_about_nu() -> None:
    machine = fitted(nu=0.2)
    assert float((machine.decide(draw(200)) < -1e-6).float().mean()) <= 0.2


def test_far_latents_keep_apart() -> None:
    far = torch.tensor([[30.0, 0, 0, 0], [60.0, 0, 0, 0]])
    scores = fitted().score(far)
    assert bool(scores.isfinite().all())
    assert scores[1] > 2 * scores[0]


def test_the_state_round_trips_with_tensors_only(tmp_path: Path) -> None:
    machine = fitted()
    torch.save(machine.state_dict(), tmp_path / "m.pt")
    other = LatentSVM(4)
    assert not other.fitted
    other.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    assert other.fitted
    torch.testing.assert_close(other.score(draw(20)), machine.score(draw(20)), atol=0, rtol=0)


def test_identical_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="all identical"):
        LatentSVM(4).fit(torch.ones(20, 4))
