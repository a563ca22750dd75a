# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.detectors import DPMMDetector


def test_features_are_unit_vectors_over_all_stages() -> None:
    features = DPMMDetector(8, num_stages=3, num_components=2).features({"patches": torch.randn(5, 3, 8)})
    assert features.shape == (5, 24)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(5))


def test_location_is_appended_with_its_weight() -> None:
    detector = DPMMDetector(8, num_components=2, location_weight=2.0)
    location = torch.rand(5, 3)
    features = detector.features({"patches": torch.randn(5, 1, 8), "location": location})
    assert features.shape == (5, 11)
    torch.testing.assert_close(features[:, 8:], 2 * (location - 0.5))


@pytest.mark.parametrize("score", ["log_density", "cosine", "euclidean", "mahalanobis"])
def test_what_was_fitted_scores_lower_than_what_was_not(score: str) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1)
    normal = centres[torch.arange(400) % 4] + 0.02 * torch.randn(400, 16, generator=generator)
    detector = DPMMDetector(16, num_components=8, score=score)
    rows = {"patches": normal[:, None]}
    detector.initialize(rows, len(normal))
    for _ in range(5):
        detector.fit_batch(rows, len(normal))
        detector.finish_epoch(lambda: rows)
    features = detector.features(rows)
    strange = detector.features({"patches": torch.randn(400, 1, 16, generator=generator)})
    assert detector.score(features).max() < detector.score(strange).min()
    assert detector.score(features).min() >= 0


@pytest.mark.parametrize(("option", "value"), [("score", "cosin"), ("location_weight", -1.0)])
def test_options_out_of_range(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        DPMMDetector(8, **{option: value})


def test_every_epoch_ends_with_merges_and_the_model_says_how_mass_is_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1)
    rows = {"patches": (centres[torch.arange(2000) % 4] + 0.02 * torch.randn(2000, 16, generator=generator))[:, None]}
    detector = DPMMDetector(16, num_components=40)
    detector.initialize(rows, 2000)
    detector.fit_batch(rows, 2000)
    before = detector.describe()
    for _ in range(3):
        detector.fit_batch(rows, 2000)
        detector.finish_epoch(lambda: rows)
    after = detector.describe()
    assert before["components_for_99_percent"] > 4
    assert after["num_components"] == 40
    assert after["components_for_99_percent"] == after["components_for_90_percent"] == 4
    assert after["effective_components"] == pytest.approx(4.0, abs=0.1)
    assert after["num_active"] == len(detector.mixture.posterior.means) < before["num_active"]


def test_memoized_inference_is_refused_before_anything_is_embedded() -> None:
    with pytest.raises(ValueError, match="`inference` must be natural or pyro for a detector, got 'memoized'"):
        DPMMDetector(8, inference="memoized")


def test_a_fit_that_uses_all_components_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(4, 8, generator=generator), dim=1)
    rows = {"patches": (centres[torch.arange(500) % 4] + 0.05 * torch.randn(500, 8, generator=generator))[:, None]}
    few, many = DPMMDetector(8, num_components=2), DPMMDetector(8, num_components=40)
    for detector in (few, many):
        detector.initialize(rows, 500)
        detector.finish_epoch(lambda: rows)
    assert few.note() == (
        "all 2 components of the mixture are in use, so more might fit better; try a larger num_components, "
        "or let it grow: max_components"
    )
    assert many.note() is None


def test_the_truncation_grows_where_it_may_and_a_grown_detector_loads() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(9, 16, generator=generator), dim=1)
    rows = {"patches": (centres[torch.arange(3600) % 9] + 0.02 * torch.randn(3600, 16, generator=generator))[:, None]}
    detector = DPMMDetector(16, num_components=2, max_components=64)
    detector.initialize(rows, 3600)
    for _ in range(6):
        detector.fit_batch(rows, 3600)
        detector.finish_epoch(lambda: rows)
    assert detector.num_components == 9
    assert detector.note() is None
    loaded = DPMMDetector(16, num_components=2, max_components=64)
    loaded.load_state_dict(detector.state_dict())
    assert loaded.describe() == detector.describe()
    assert torch.equal(loaded.score(detector.features(rows)), detector.score(detector.features(rows)))


def test_only_natural_inference_lets_it_grow() -> None:
    with pytest.raises(ValueError, match="`max_components` must be at least num_components, and inference natural"):
        DPMMDetector(8, num_components=4, max_components=8, inference="pyro")
