# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

import monai_dpmm_ad.detectors.search as search_module
from monai_dpmm_ad.detectors.search import LazySearch, NearestNeighbours


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(700, 12, generator=generator), dim=1).half()
    return vectors, F.normalize(torch.randn(90, 12, generator=generator), dim=1)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("use_faiss", [True, False])
def test_the_search_finds_what_all_distances_say(
    data: tuple[torch.Tensor, torch.Tensor], k: int, use_faiss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if use_faiss:
        pytest.importorskip("faiss")
    monkeypatch.setattr(search_module, "QUERY_CHUNK", 37)
    monkeypatch.setattr(search_module, "VECTOR_CHUNK", 64)
    vectors, x = data
    expected = torch.cdist(x.double(), vectors.double()).square().topk(k, largest=False)
    distances, indices = NearestNeighbours(vectors, use_faiss=use_faiss)(x, k)
    torch.testing.assert_close(distances, expected.values.float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(indices, expected.indices)


def test_inverted_lists_find_all_when_all_are_probed_and_nearly_all_otherwise(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    pytest.importorskip("faiss")
    vectors, x = data
    exact = NearestNeighbours(vectors, use_faiss=False)(x, 3)[0]
    every = NearestNeighbours(vectors, "ivf", num_lists=20, num_probes=20)(x, 3)[0]
    some = NearestNeighbours(vectors, "ivf", num_lists=20, num_probes=4)(x, 3)[0]
    torch.testing.assert_close(every, exact, atol=1e-5, rtol=1e-5)
    assert (some >= exact - 1e-5).all()
    assert (some[:, 0] - exact[:, 0] < 1e-5).float().mean() > 0.5


def test_cells_that_hold_too_few_are_searched_exactly(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    pytest.importorskip("faiss")
    vectors, x = data
    search = NearestNeighbours(vectors[:30], "ivf", num_lists=15, num_probes=1)
    distances, indices = search(x, 20)
    assert (indices >= 0).all()
    assert (distances[:, 1:] >= distances[:, :-1]).all()


def test_no_queries_are_no_error(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    for use_faiss in (None, False):
        assert NearestNeighbours(data[0], use_faiss=use_faiss)(torch.zeros(0, 12), 2)[0].shape == (0, 2)


def test_bad_arguments_are_refused(data: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, x = data
    search = NearestNeighbours(vectors)
    with pytest.raises(ValueError, match="`k` must lie between 1 and the number of vectors 700, got 701"):
        search(x, 701)
    with pytest.raises(ValueError, match=r"must have shape \(N, 12\)"):
        search(x[:, :5])
    with pytest.raises(ValueError, match="Did you mean 'ivf'"):
        NearestNeighbours(vectors, "ivff")
    with pytest.raises(ValueError, match="M ≥ 1"):
        NearestNeighbours(vectors[:0])
    monkeypatch.setattr(search_module, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert len(NearestNeighbours(vectors)(x)) == 2
    with pytest.raises(ImportError, match=r"monai-dpmm-ad\[faiss\]"):
        NearestNeighbours(vectors, use_faiss=True)


def test_a_lazy_search_is_built_once_for_the_same_vectors_and_anew_for_others() -> None:
    search, vectors = LazySearch(), torch.eye(3)
    built = search.among(vectors)
    assert search.among(vectors) is built
    other = search.among(vectors.clone())
    assert other is not built
    assert search.among(other.vectors) is other
    with pytest.raises(ValueError, match="Did you mean 'flat'"):
        LazySearch("flatt")
