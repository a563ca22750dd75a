# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import torch

from monai_dpmm_ad.pretraining.implants import implant_lesions, measure_change


def test_only_chosen_slices_change_and_only_inside_the_head(pool, generator):
    images = pool.draw(12, generator).images
    chosen = torch.arange(12) < 6
    marked, around = implant_lesions(images, torch.ones(12), chosen, generator)
    assert torch.equal(marked[6:], images[6:])
    assert torch.equal(around[6:], images[6:])
    assert torch.equal(marked > 0, images > 0)
    assert torch.equal(around > 0, images > 0)
    assert ((marked[:6] - around[:6]).abs().amax((1, 2, 3)) > 0.02).all()
    assert marked.max() <= 1


def test_a_lesion_is_local(pool, generator):
    images = pool.draw(12, generator).images
    marked, around = implant_lesions(images, torch.full((12,), 4.0), torch.ones(12, dtype=torch.bool), generator)
    assert (measure_change(around, marked, 8) < 1e-6).float().mean() > 0.3


def test_only_large_lesions_push_their_surroundings(pool, generator):
    images = pool.draw(24, generator).images
    everywhere = torch.ones(24, dtype=torch.bool)
    _, around = implant_lesions(images, torch.full((24,), 10.0), everywhere, generator)
    assert torch.equal(around, images)
    _, around = implant_lesions(images, torch.full((24,), 0.3), everywhere, generator)
    moved = (around != images).flatten(1).any(1)
    assert 0 < moved.sum() < 24


def test_same_generator_gives_same_lesions(pool, generator):
    images = pool.draw(6, generator).images
    first, again = (
        implant_lesions(images, torch.ones(6), torch.ones(6, dtype=torch.bool), torch.Generator().manual_seed(4))[0]
        for _ in range(2)
    )
    assert torch.equal(first, again)


def test_measure_change_is_the_mean_over_a_patch():
    before, after = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    after[0, 0, :8, 8:] = 0.5
    after[0, 0, 8, 0] = -0.64
    torch.testing.assert_close(measure_change(before, after, 8), torch.tensor([[0.0, 0.5, 0.01, 0.0]]))
