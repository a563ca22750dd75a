# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import is_valid_linkage
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from monai_dpmm_ad.clustering import LINKAGES, group_descriptors


def blobs(*sizes: int, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    centres = 5 * np.eye(4)[: len(sizes)]
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return centres[truth] + spread * random.normal(size=(len(truth), 4)), truth


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize("number", [1, 2, 3, 7, 12])
def test_groups_are_scikit_learns(linkage: str, number: int) -> None:
    points = np.random.default_rng(1).normal(size=(12, 3))
    expected = AgglomerativeClustering(n_clusters=number, linkage=linkage).fit_predict(points)
    found = group_descriptors(points, number, linkage)
    assert found.num_clusters == number
    assert adjusted_rand_score(expected, found.labels) == 1
    assert is_valid_linkage(found.merges)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_the_silhouette_finds_the_number_of_groups(linkage: str) -> None:
    points, truth = blobs(9, 5, 7)
    found = group_descriptors(points, linkage=linkage)
    assert found.num_clusters == 3
    assert adjusted_rand_score(truth, found.labels) == 1
    assert max(found.silhouettes, key=found.silhouettes.__getitem__) == 3


def test_groups_are_numbered_by_falling_size() -> None:
    points, _ = blobs(3, 9, 5)
    counts = np.bincount(group_descriptors(points).labels)
    assert list(counts) == [9, 5, 3]


def test_the_item_at_the_mean_is_the_most_typical() -> None:
    points = np.array([[0.0], [1.0], [0.5], [9.0]])
    found = group_descriptors(points, 2)
    assert int(np.argmin(np.where(found.labels == 0, found.distances, np.inf))) == 2


def test_two_items_are_two_groups_and_identical_ones_a_single_group() -> None:
    assert group_descriptors(np.array([[0.0], [1.0]])).num_clusters == 2
    assert group_descriptors(np.zeros((5, 2))).num_clusters == 1


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (np.zeros((1, 3)), {}, "at least two items"),
        (np.zeros((4, 3)), {"num_clusters": 5}, "between 1 and the number of items 4"),
        (np.zeros((4, 3)), {"num_clusters": 0}, "between 1"),
        (np.full((4, 3), np.nan), {}, "finite"),
        (np.zeros((4, 3)), {"linkage": "wards"}, "Did you mean 'ward'"),
    ],
)
def test_bad_input_is_refused(points: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_descriptors(points, **options)
