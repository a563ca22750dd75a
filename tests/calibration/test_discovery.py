# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""q-values: the definition by hand, and the promise by simulation with p-values that share their healthy scans."""

from __future__ import annotations

import numpy as np
import pytest

from monai_dpmm_ad.calibration.discovery import q_values


def by_definition(p: list[float]) -> list[float]:
    """The least level at which Benjamini and Hochberg's step-up rule rejects."""
    ranked = sorted(p)
    levels = [len(p) * value / (rank + 1) for rank, value in enumerate(ranked)]
    return [min(level for level, other in zip(levels, ranked, strict=True) if other >= value) for value in p]


@pytest.mark.parametrize("seed", range(5))
def test_they_are_the_least_levels_that_reject(seed: int) -> None:
    p = np.random.default_rng(seed).uniform(size=12).round(1 + seed).clip(0.01).tolist()
    assert q_values(p) == pytest.approx(np.minimum(by_definition(p), 1).tolist())


def test_what_has_no_p_value_counts_for_nothing() -> None:
    assert q_values([None, 0.02, None, 0.5]) == [None, 0.04, None, 0.5]
    assert q_values([]) == []
    assert q_values([None]) == [None]


def test_the_share_of_false_discoveries_is_kept_with_conformal_p_values() -> None:
    generator, shares = np.random.default_rng(0), []
    for _ in range(400):
        healthy = np.sort(generator.normal(size=99))
        scores = np.concatenate([generator.normal(size=30), generator.normal(3.5, 1, size=10)])
        p = (1 + 99 - np.searchsorted(healthy, scores, side="left")) / 100
        found = np.array(q_values(p.tolist())) <= 0.2
        shares.append(found[:30].sum() / max(found.sum(), 1))
    assert np.mean(shares) <= 0.2 * 30 / 40 + 0.02, "the level times the share of healthy scans"
    assert np.mean(shares) > 0.05, "some are found, so the test can fail"
