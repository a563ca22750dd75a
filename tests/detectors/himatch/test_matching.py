# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.detectors.himatch.matching import (
    cluster_patches,
    compare_locally,
    compute_uncertainty,
    fuse_maps,
    score_left_out,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_local_similarity_is_one_with_itself_and_grows_with_patches() -> None:
    query, other = draw(9, 6), draw(12, 6, seed=1)
    same, fewer, more = compare_locally(query, [query, other[:4], other])
    assert same == pytest.approx(1)
    assert fewer <= more <= 1


def test_centroids_are_unit_vectors_and_zero_clusters_keep_the_patches() -> None:
    patches = draw(60, 6)
    centroids = cluster_patches(patches, 5)
    assert centroids.shape == (5, 6)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(5))
    assert torch.equal(centroids, cluster_patches(patches, 5))
    assert cluster_patches(patches, 0) is patches
    assert len(cluster_patches(patches[:1].expand(9, -1), 5)) == 1


def test_uncertainty_is_one_where_all_centroids_are_alike_and_near_zero_where_one_stands_out() -> None:
    torch.testing.assert_close(compute_uncertainty(torch.full((4, 7), 0.3), 0.1), torch.ones(4))
    decided = torch.zeros(4, 7)
    decided[:, 2] = 1
    assert compute_uncertainty(decided, 0.01).max() < 1e-6
    assert torch.equal(compute_uncertainty(torch.rand(4, 1), 0.1), torch.zeros(4))


def test_fusion_lies_between_the_maps_and_prefers_the_certain_one() -> None:
    maps = torch.stack([torch.zeros(5), torch.ones(5)])
    uncertainty = torch.stack([torch.full((5,), 0.9), torch.full((5,), 0.1)])
    fused = fuse_maps(maps, uncertainty, 0.1)
    assert (fused > 0.9).all()
    assert (fused <= 1).all()
    torch.testing.assert_close(fuse_maps(maps, None, 0.1), torch.full((5,), 0.5))
    torch.testing.assert_close(fuse_maps(maps, uncertainty, 1e9), torch.full((5,), 0.5))


def test_a_left_out_image_is_not_compared_with_itself() -> None:
    supports = [draw(8, 6, seed=seed) for seed in range(3)]
    scores = score_left_out(supports, 0)
    assert scores.shape == (24,)
    assert (scores > 1e-3).all()
