# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from monai_dpmm_ad.pretraining import probe


def test_rank_counts_directions():
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(32, 5, generator=generator))[0]
    features = torch.randn(4000, 5, generator=generator) @ directions.T
    assert probe.compute_rank(features) == pytest.approx(5, rel=0.02)
    assert probe.compute_rank(torch.ones(10, 4)) == pytest.approx(1, abs=1e-6)
    assert np.isnan(probe.compute_rank(torch.full((10, 4), torch.nan)))


def test_auroc_is_that_of_sklearn():
    generator = torch.Generator().manual_seed(0)
    positive = torch.randint(0, 9, (40,), generator=generator).float() + 2
    negative = torch.randint(0, 9, (70,), generator=generator).float()
    expected = roc_auc_score([1] * 40 + [0] * 70, torch.cat([positive, negative]))
    assert probe._auroc(positive, negative) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("measured", "problem"),
    [
        ({"probe_rank": 1.2, "probe_similarity": 0.1}, "effective rank of the features is 1.20"),
        ({"probe_rank": float("nan"), "probe_similarity": float("nan")}, "effective rank of the features is nan"),
        ({"probe_rank": 9.0, "probe_similarity": 0.999}, "mean cosine of 0.999"),
        ({"probe_rank": 9.0, "probe_similarity": 0.3}, None),
    ],
)
def test_collapse_is_named(measured, problem):
    found = probe.check_collapse(measured)
    assert found is None if problem is None else problem in found
