# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.detectors import MemoryBankDetector
from monai_dpmm_ad.embedding.types import EncodedSlices, PatchEmbeddings
from monai_dpmm_ad.errors import CheckpointError, NotFittedError

DIM = 16


def draw(rows: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"patches": torch.randn(rows, 1, DIM, generator=generator), "location": torch.rand(rows, 3)}


def fit(detector: MemoryBankDetector, rows: dict[str, Tensor], batch_size: int = 50) -> MemoryBankDetector:
    total = len(rows["patches"])
    for start in range(0, total, batch_size):
        assert detector.fit_batch({key: value[start : start + batch_size] for key, value in rows.items()}, total) == 0
    detector.finish_epoch(lambda: rows)
    return detector


def test_the_full_bank_scores_one_minus_the_best_cosine() -> None:
    normal, new = draw(230), draw(40, seed=1)
    detector = fit(MemoryBankDetector(DIM), normal)
    cosines = F.normalize(new["patches"][:, 0], dim=1) @ F.normalize(normal["patches"][:, 0], dim=1).T
    torch.testing.assert_close(detector.score(detector.features(new)), 1 - cosines.amax(1), atol=2e-3, rtol=0)
    assert detector.bank.shape == (230, DIM)


def test_more_neighbours_give_their_mean() -> None:
    normal, new = draw(230), draw(40, seed=1)
    detector = fit(MemoryBankDetector(DIM, neighbours=3), normal)
    features = detector.features(new)
    expected = torch.cdist(features, detector.bank.float()).square().topk(3, largest=False).values.mean(1) / 2
    torch.testing.assert_close(detector.score(features), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("options", "size"), [({"fraction": 0.1}, 23), ({"budget": 17}, 17), ({"max_rows": 100}, 100)])
def test_the_bank_keeps_to_its_budget(options: dict[str, Any], size: int) -> None:
    assert len(fit(MemoryBankDetector(DIM, **options), draw(230)).bank) == size


def test_a_coreset_covers_better_than_a_random_draw() -> None:
    normal = draw(600)
    normal["patches"][:500] = normal["patches"][:1] + 0.05 * normal["patches"][:500]  # a dense spot and a few others
    features = MemoryBankDetector(DIM).features(normal)
    coreset = fit(MemoryBankDetector(DIM, budget=40, projection=None), normal)
    random = fit(MemoryBankDetector(DIM, max_rows=40), normal)
    assert coreset.score(features).max() < random.score(features).max()


def test_the_same_seed_gives_the_same_bank_and_another_seed_another() -> None:
    banks = [fit(MemoryBankDetector(DIM, max_rows=50, seed=seed), draw(230)).bank for seed in (0, 0, 1)]
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])


def test_a_state_dict_brings_everything_back_without_another_call() -> None:
    detector = fit(MemoryBankDetector(DIM, budget=30, location_weight=0.5), draw(230))
    new = detector.features(draw(40, seed=1))
    other = MemoryBankDetector(DIM, budget=30, location_weight=0.5)
    other.load_state_dict(detector.state_dict())
    assert other.fitted
    assert torch.equal(other.score(new), detector.score(new))
    other.load_state_dict(fit(MemoryBankDetector(DIM, location_weight=0.5), draw(9)).state_dict())  # no stale index
    assert not torch.equal(other.score(new), detector.score(new))


def test_a_fit_goes_on_from_a_loaded_bank() -> None:
    detector = fit(fit(MemoryBankDetector(DIM), draw(30)), draw(20, seed=1))
    assert len(detector.bank) == 50


def test_a_state_of_another_backbone_is_refused() -> None:
    with pytest.raises(CheckpointError, match="bank"):
        MemoryBankDetector(2 * DIM).load_state_dict(fit(MemoryBankDetector(DIM), draw(30)).state_dict())
    with pytest.raises(ValueError, match="as the vectors"):
        fit(MemoryBankDetector(DIM), draw(30)).score(torch.zeros(3, 2 * DIM))


def test_only_valid_patches_are_scored() -> None:
    detector = fit(MemoryBankDetector(DIM), draw(100))
    patches = torch.randn(2, 1, 3, 4, DIM)
    encoded = EncodedSlices(PatchEmbeddings(patches, patches[:, :, 0, 0]), torch.rand(2, 3, 4, 3), torch.ones(2, 3, 4))
    valid = torch.rand(2, 3, 4) > 0.5
    grid = detector.score_slices(encoded, valid)
    expected = detector.score(detector.features(encoded.rows())[valid])
    torch.testing.assert_close(grid[valid], expected)
    assert not detector.score_slices(encoded, torch.zeros_like(valid)).any()


def test_bad_options_are_refused() -> None:
    for option, value in [("fraction", 0.0), ("fraction", 1.5), ("budget", 0), ("neighbours", 0), ("index", "iv")]:
        with pytest.raises(ValueError, match=f"`{option}` must"):
            MemoryBankDetector(DIM, **{option: value})
    with pytest.raises(ValueError, match="`neighbours` must not exceed the 30 embeddings"):
        fit(MemoryBankDetector(DIM, neighbours=31), draw(30))
    with pytest.raises(NotFittedError, match="empty"):
        MemoryBankDetector(DIM).score(torch.zeros(1, DIM))
