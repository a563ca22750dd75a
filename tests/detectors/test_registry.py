# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest

from monai_dpmm_ad.detectors import DETECTORS, Detector, create_detector


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_is_made_by_name_and_is_not_fitted(name: str) -> None:
    detector = create_detector(name, 8, num_stages=2, mixture={"num_components": 3})
    assert isinstance(detector, Detector)
    assert not detector.fitted
    assert detector.batch_unit in ("patches", "scans")
    buffers = dict(detector.named_buffers())
    assert set(detector.variable_buffers) <= set(buffers)


def test_options_overrule_the_settings_of_the_mixture() -> None:
    detector = create_detector("dpmm", 8, mixture={"num_components": 3}, options={"num_components": 5}, seed=7)
    assert detector.mixture.num_components == 5
    assert detector.mixture.seed == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpm", {}, "Did you mean 'dpmm'"),
        ("dpmm", {"covarianc": "full"}, "Did you mean 'covariance'"),
        ("dpmm", {"embed_dim": 3}, "option of dpmm"),
    ],
)
def test_unknown_names_and_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_detector(name, 8, options=options)
