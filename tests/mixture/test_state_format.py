# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""States that former versions wrote load, score as they did then, and go on learning as they did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monai_dpmm_ad.mixture import DirichletProcessMixture

FORMAT_1 = Path(__file__).parent / "data" / "states_format_1.safetensors"


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "full", "vmf"])
def test_a_state_of_the_first_format_loads_and_scores_as_then(covariance: str) -> None:
    saved = load_file(FORMAT_1)
    prefix = f"{covariance}.state."
    state = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
    mixture = DirichletProcessMixture(5, 4, covariance)
    mixture.load_state_dict(state, strict=True)
    x = saved["x"]
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(mixture.log_prob(x), saved[f"{covariance}.log_prob"], **close)
    torch.testing.assert_close(mixture.cosine_distance(x), saved[f"{covariance}.cosine_distance"], **close)
    torch.testing.assert_close(mixture.log_prob_bound(), saved[f"{covariance}.bound"], **close)
    mixture.partial_fit(x[:30])
    torch.testing.assert_close(mixture.log_prob(x), saved[f"{covariance}.after_step"], **close)
