# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from monai_dpmm_ad.clustering import compute_agreement


def test_f1_is_that_of_the_best_of_all_matchings() -> None:
    random = np.random.default_rng(0)
    types = random.integers(0, 3, 60)
    labels = np.where(random.random(60) < 0.6, (types + 1) % 3, random.integers(0, 3, 60))
    renamed = [np.array(order)[labels] for order in permutations(range(3))]
    best = max(renamed, key=lambda names: accuracy_score(types, names))
    found = compute_agreement(labels, [f"type {t}" for t in types])
    assert found["f1"] == pytest.approx(f1_score(types, best, average="macro"))


def test_names_of_groups_do_not_matter() -> None:
    types = ["a", "a", "b", "b", "c"]
    assert compute_agreement([0, 0, 1, 2, 2], types) == pytest.approx(compute_agreement([7, 7, 3, 1, 1], types))


def test_groups_beyond_the_types_count_as_wrong() -> None:
    assert compute_agreement([0, 1, 2, 3], ["a", "a", "b", "b"])["f1"] == pytest.approx(2 / 3)


def test_one_group_says_nothing() -> None:
    found = compute_agreement([0, 0, 0, 0], ["a", "a", "b", "b"])
    assert found["nmi"] == pytest.approx(0)
    assert found["ari"] == pytest.approx(0)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="as many as the 2 labels"):
        compute_agreement([0, 1], ["a"])
