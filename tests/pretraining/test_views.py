# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from monai_dpmm_ad.pretraining.views import augment_intensity, match_patches, sample_view_pair


@pytest.fixture
def ramps(generator):
    """Two channels' worth of slices whose value is the row or the column, so that a view shows where it was cut."""
    rows = torch.linspace(0.2, 0.8, 64)[:, None].expand(64, 64)
    return torch.stack([rows, rows.T] * 3)[:, None].contiguous()


FRAMES = torch.full((6, 2), 64.0)


def test_places_say_where_the_pixels_come_from(ramps, generator):
    view, _ = sample_view_pair(ramps, ramps, FRAMES, 32, 8, (0.5, 0.9), 0.1, generator)
    means = F.avg_pool2d(view.images, 8)[:, 0]
    whole = F.avg_pool2d((view.images > 0).float(), 8)[:, 0] == 1
    expected = 0.2 + 0.6 * (view.places - 0.5) / 63
    for index in range(6):
        torch.testing.assert_close(
            means[index][whole[index]], expected[index, ..., index % 2][whole[index]], atol=0.01, rtol=0
        )


def test_matched_patches_lie_within_half_a_patch(ramps, generator):
    one, two = sample_view_pair(ramps, ramps, FRAMES, 32, 8, (0.8, 1.0), 0.1, generator)
    partner, found = match_patches(one, two, 8)
    assert found.any()
    places = two.places.flatten(1, 2).gather(1, partner[..., None].expand(-1, -1, 2))
    apart = (one.places.flatten(1, 2) - places).norm(dim=-1)[found]
    assert apart.max() <= 0.5 * 8 * 2**0.5 + 1e-3


def test_positions_are_mirrored_where_the_view_is(ramps, generator):
    view, _ = sample_view_pair(ramps, ramps, FRAMES, 32, 8, (0.9, 1.0), 0.1, generator)
    mirrored = torch.linalg.det(view.rotation) < 0
    assert mirrored.any()
    assert not mirrored.all()
    # Within a view, later columns have larger positions, mirrored or not.
    assert (view.positions.diff(dim=2)[..., 1] > 0).all()
    falls = (view.places.diff(dim=2)[..., 1] < 0).flatten(1).all(1)
    assert torch.equal(falls, mirrored)


def test_background_stays_exactly_zero(pool, generator):
    drawn = pool.draw(8, generator)
    view, _ = sample_view_pair(drawn.images, drawn.others, drawn.frames, 32, 8, (0.5, 1.5), 0.1, generator)
    changed = augment_intensity(view.images, generator)
    assert torch.equal(changed > 0, view.images > 0)
    assert changed.max() <= 1


def test_same_generator_gives_same_views(pool):
    drawn = pool.draw(4, Generator().manual_seed(3))
    first, second = (
        sample_view_pair(drawn.images, drawn.others, drawn.frames, 32, 8, (0.5, 1.5), 0.1, Generator().manual_seed(5))[
            0
        ].images
        for _ in range(2)
    )
    assert torch.equal(first, second)
