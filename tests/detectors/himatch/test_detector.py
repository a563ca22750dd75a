# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from typing import Any

import pytest
import torch
from reference.himatch import score_slice
from torch import Tensor

from monai_dpmm_ad.detectors import HiMatchDetector
from monai_dpmm_ad.embedding.types import EncodedSlices, PatchEmbeddings
from monai_dpmm_ad.errors import CheckpointError, NotFittedError

STAGES, DIM = 2, 8


def draw_scan(slices: int, patches: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Rows of one scan; slice 0 has no patches, as one without foreground."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "patches": torch.randn(slices * patches, STAGES, DIM, generator=generator),
        "location": torch.rand(slices * patches, 3),
        "slice_index": torch.arange(1, slices + 1).repeat_interleave(patches),
        "cls": torch.randn(slices + 1, STAGES, DIM, generator=generator),
    }


def make(**options: Any) -> HiMatchDetector:
    return HiMatchDetector(DIM, STAGES, **{"num_support": 2, "num_clusters": 3, **options})


def fit(detector: HiMatchDetector, *scans: dict[str, Tensor]) -> HiMatchDetector:
    for scan in scans:
        assert detector.fit_batch(scan, 100) == 0
    detector.finish_epoch(lambda: scans[0])
    return detector


def query(seed: int = 9, patches: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(patches, STAGES, DIM, generator=generator), torch.randn(STAGES, DIM, generator=generator)


@pytest.mark.parametrize(("support", "beta"), [(1, 0.5), (2, 0.5), (3, 0.0), (2, 1.0)])
def test_scores_are_those_of_the_oracle(support: int, beta: float) -> None:
    scan = draw_scan(20)
    detector = make(num_support=support, local_weight=beta, num_clusters=0)
    detector = fit(detector, scan)
    patches, cls = query()
    found = detector.score_slice(patches, cls)
    references = [(scan["cls"][i, -1].numpy(), scan["patches"][scan["slice_index"] == i].numpy()) for i in range(1, 21)]
    expected = score_slice(patches.numpy(), cls[-1].numpy(), references, support, beta, 4, 0.1, 0.1)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=0.02, rtol=0.02)


def test_a_reference_seen_again_scores_least() -> None:
    scan = draw_scan(20)
    detector = fit(make(num_support=1, num_clusters=0, standardize=False), scan)
    again = detector.score_slice(scan["patches"][scan["slice_index"] == 7], scan["cls"][7])
    assert again.max() < 1e-3
    assert detector.score_slice(*query()).min() > 1e-3


def test_references_are_bounded_and_the_draw_is_the_seeds() -> None:
    scans = [draw_scan(30, seed=seed) for seed in range(3)]
    detectors = [fit(make(max_references=20, patches_per_reference=4, seed=seed), *scans) for seed in (0, 0, 1)]
    for detector in detectors:
        assert len(detector.reference_cls) == 20
        assert len(detector.reference_patches) == 80
    assert torch.equal(detectors[0].reference_cls, detectors[1].reference_cls)
    assert not torch.equal(detectors[0].reference_cls, detectors[2].reference_cls)


def test_slices_without_foreground_are_no_references() -> None:
    assert len(fit(make(), draw_scan(5)).reference_counts) == 5


def test_a_state_dict_brings_everything_back_without_another_call() -> None:
    detector, other = fit(make(), draw_scan(20)), make()
    other.load_state_dict(detector.state_dict())
    assert other.fitted
    assert torch.equal(other.score_slice(*query()), detector.score_slice(*query()))
    with pytest.raises(CheckpointError, match="reference_patches"):
        make(stages=[1]).load_state_dict(detector.state_dict())


def test_a_fit_goes_on_from_loaded_references() -> None:
    assert len(fit(fit(make(), draw_scan(5)), draw_scan(4, seed=1)).reference_counts) == 9


def test_slices_are_scored_by_themselves_and_one_without_foreground_not_at_all() -> None:
    detector = fit(make(), draw_scan(20))
    patches, cls = torch.randn(3, STAGES, 4, 5, DIM), torch.randn(3, STAGES, DIM)
    encoded = EncodedSlices(PatchEmbeddings(patches, cls), torch.rand(3, 4, 5, 3), torch.ones(3, 4, 5))
    valid = torch.rand(3, 4, 5) > 0.3
    valid[1] = False
    grid = detector.score_slices(encoded, valid)
    assert not grid[1].any()
    assert (grid[valid] > 0).all()
    alone = detector.score_slice(patches[2].movedim(0, 2)[valid[2]], cls[2])
    torch.testing.assert_close(grid[2][valid[2]], alone)


def test_the_criterion_prefers_what_was_fitted() -> None:
    scan = draw_scan(20)
    detector = fit(make(), scan)
    assert detector.criterion(scan).mean() > detector.criterion(draw_scan(20, seed=5)).mean()
    assert detector.criterion({name: rows[:0] for name, rows in scan.items()}).shape == (0,)


@pytest.mark.parametrize(
    "switch",
    [
        {"retrieve": False},
        {"local_weight": 1.0},
        {"num_clusters": 0},
        {"fusion": "mean"},
        {"standardize": False},
        {"stages": [1]},
        {"num_support": 4},
        {"index": "ivf"},
    ],
    ids=str,
)
def test_every_switch_changes_the_scores_and_nothing_else(switch: dict[str, Any]) -> None:
    scan = draw_scan(40)
    plain, switched = (fit(make(**options), scan).score_slice(*query(patches=30)) for options in ({}, switch))
    assert plain.shape == switched.shape
    assert switched.min() >= 0
    assert torch.isfinite(switched).all()
    if "index" not in switch:
        assert not torch.equal(plain, switched)


def test_the_search_without_faiss_gives_the_same() -> None:
    pytest.importorskip("faiss")
    scan = draw_scan(40)
    first, second = (fit(make(use_faiss=use), scan).score_slice(*query()) for use in (True, False))
    torch.testing.assert_close(first, second)


def test_more_support_than_references_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_support` must not exceed the 5 reference slices"):
        fit(make(num_support=6), draw_scan(5))
    detector = make(num_support=6)
    detector.load_state_dict(fit(make(), draw_scan(5)).state_dict())
    with pytest.raises(ValueError, match="`num_support` must not exceed the 5"):
        detector.score_slice(*query())
    empty = {name: rows[:0] for name, rows in draw_scan(5).items()}
    with pytest.raises(ValueError, match="the 0 reference slices that have foreground"):
        fit(make(), empty)


def test_an_empty_query_and_another_backbones_patches() -> None:
    detector = fit(make(), draw_scan(5))
    assert detector.score_slice(torch.zeros(0, STAGES, DIM), torch.zeros(STAGES, DIM)).shape == (0,)
    with pytest.raises(ValueError, match="as the references"):
        detector.score_slice(torch.zeros(3, STAGES, 2 * DIM), torch.zeros(STAGES, 2 * DIM))


def test_the_order_of_calls_is_checked() -> None:
    with pytest.raises(NotFittedError, match="no references"):
        make().score_slice(*query())
    with pytest.raises(NotFittedError, match="fit_batch"):
        make().finish_epoch(dict)
    with pytest.raises(TypeError, match="whole slices"):
        make().score(torch.zeros(3, STAGES * DIM))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_support", 0),
        ("shortlist_factor", 0),
        ("max_references", 0),
        ("patches_per_reference", 0),
        ("num_clusters", -1),
        ("local_weight", 1.5),
        ("similarity_temperature", 0.0),
        ("fusion_temperature", -1.0),
        ("fusion", "men"),
        ("index", "fla"),
        ("stages", [2]),
        ("stages", []),
        ("location_weight", 0.5),
    ],
)
def test_options_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{option}` must"):
        make(**{option: value})
