# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from monai_dpmm_ad.detectors.ogae.detector import OCSVMGuidedDetector
from monai_dpmm_ad.errors import NotFittedError

Rows = dict[str, torch.Tensor]


def draw_rows(n: int, seed: int = 0, dim: int = 16, shift: float = 0.0) -> Rows:
    """Rows near a plane of two dimensions in all ``dim``, around a point that may be shifted within it."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randn(2, dim, generator=torch.Generator().manual_seed(99))
    x = 1 + (shift + torch.randn(n, 2, generator=generator)) @ plane + 0.1 * torch.randn(n, dim, generator=generator)
    return {"patches": x[:, None], "location": torch.rand(n, 3, generator=generator)}


def fit(epochs: int = 20, **options: Any) -> OCSVMGuidedDetector:
    detector = OCSVMGuidedDetector(16, latent_dim=4, width=options.pop("width", 16), **options)
    rows = draw_rows(600)
    detector.initialize(rows, 600)
    for epoch in range(epochs):
        order = torch.randperm(600, generator=torch.Generator().manual_seed(epoch))
        detector.fit_batch({name: values[order] for name, values in rows.items()}, 600)
    detector.finish_epoch(lambda: rows)
    return detector


def score(detector: OCSVMGuidedDetector, rows: Rows) -> torch.Tensor:
    with torch.no_grad():
        return detector.score(detector.features(rows))


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "compactor"},
        {"mode": "expander"},
        {"mode": "both", "location_weight": 0.1},
        {"kernel": "linear"},
        {"guidance": 0.0},
        {"gamma": 0.3},
        {"architecture": "conv", "width": 4},
    ],
)
def test_outliers_score_higher(options: dict[str, Any]) -> None:
    detector = fit(60, step_rows=128, **options)
    normal, strange = draw_rows(200, 1), draw_rows(200, 2, shift=-4.0)
    scores = torch.cat([score(detector, normal), score(detector, strange)])
    assert bool((scores >= 0).all())
    assert roc_auc_score([0] * 200 + [1] * 200, scores) > 0.8


def test_the_loss_falls() -> None:
    detector = OCSVMGuidedDetector(16, latent_dim=4, width=16, step_rows=128)
    rows = draw_rows(600)
    detector.initialize(rows, 600)
    gains = [float(detector.fit_batch(rows, 600)) for _ in range(40)]
    assert gains[-1] > gains[0] + 0.2


def test_the_same_seed_gives_the_same_detector() -> None:
    states = [fit(3, seed=5).state_dict() for _ in range(2)]
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, atol=0, rtol=0)


def test_the_state_is_tensors_and_brings_everything_back(tmp_path: Path) -> None:
    detector = fit(3)
    torch.save(detector.state_dict(), tmp_path / "model.pt")
    other = OCSVMGuidedDetector(16, latent_dim=4, width=16)
    assert not other.fitted
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other.fitted
    rows = draw_rows(50, 3)
    torch.testing.assert_close(score(other, rows), score(detector, rows), atol=0, rtol=0)


def test_a_loaded_detector_may_be_fitted_further() -> None:
    detector, other = fit(2), OCSVMGuidedDetector(16, latent_dim=4, width=16)
    other.load_state_dict(detector.state_dict())
    before = other.criterion(draw_rows(200, 4)).mean()
    for _ in range(20):
        other.fit_batch(draw_rows(600), 600)
    other.finish_epoch(lambda: draw_rows(600))
    assert other.criterion(draw_rows(200, 4)).mean() > before


def test_rows_may_be_few_or_none() -> None:
    detector = fit(1)
    few = {name: values[:3] for name, values in draw_rows(5).items()}
    none = {name: values[:0] for name, values in draw_rows(5).items()}
    assert bool(detector.fit_batch(few, 600).isfinite())
    assert float(detector.fit_batch(none, 600)) == 0
    assert score(detector, none).shape == (0,)


def test_raw_patches_are_not_normalised() -> None:
    rows = draw_rows(4)
    features = OCSVMGuidedDetector(16, architecture="conv", width=4).features(rows)
    torch.testing.assert_close(features, rows["patches"][:, 0])


def test_it_must_be_fitted_first() -> None:
    with pytest.raises(NotFittedError, match="finish_epoch"):
        score(OCSVMGuidedDetector(16), draw_rows(3))


def test_rows_that_are_all_identical_are_refused() -> None:
    with pytest.raises(ValueError, match="all identical"):
        OCSVMGuidedDetector(16).initialize({"patches": torch.ones(20, 1, 16)}, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nu": 0}, "`nu` must lie in"),
        ({"nu": 1.2}, "`nu` must lie in"),
        ({"mode": "compact"}, "Did you mean 'compactor'"),
        ({"kernel": "rbff"}, "Did you mean 'rbf'"),
        ({"gamma": "auto1"}, "Did you mean 'auto'"),
        ({"gamma": -1}, "`gamma` must be positive"),
        ({"guidance": -1}, "`guidance` must be at least 0"),
        ({"step_rows": 8}, "`step_rows` must be at least"),
        ({"architecture": "conv", "num_stages": 2}, "one stage"),
        ({"architecture": "conv", "location_weight": 0.1}, "no location"),
        ({"architecture": "cnn"}, "`architecture` must be one of"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OCSVMGuidedDetector(16, **options)
