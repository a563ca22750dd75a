# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.embedding import PixelEmbedder, create_embedder


def test_patches_are_the_images_own_pixels() -> None:
    images = torch.rand(2, 1, 8, 12)
    patches = PixelEmbedder(4).embed(images).patches
    assert patches.shape == (2, 1, 2, 3, 16)
    torch.testing.assert_close(patches[1, 0, 1, 2].view(4, 4), images[1, 0, 4:, 8:])


def test_the_last_patches_are_padded_with_zeros() -> None:
    embedder = PixelEmbedder(4)
    patches = embedder.embed(torch.ones(1, 1, 5, 4)).patches
    assert patches.shape[2:4] == (2, 1)
    assert float(patches[0, 0, 1, 0].sum()) == 4


def test_the_size_is_part_of_the_name() -> None:
    assert create_embedder("pixels").patch_size == 16
    assert create_embedder("pixels-8").patch_size == 8
    assert create_embedder("pixels-8").digest() != create_embedder("pixels").digest()


@pytest.mark.parametrize("name", ["pixels-1", "pixels-0"])
def test_patches_below_two_pixels_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 2 pixels"):
        create_embedder(name)


def test_a_slip_in_the_name_is_answered() -> None:
    with pytest.raises(ValueError, match="Did you mean 'pixels'"):
        create_embedder("pixel")


def test_several_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="one grey channel"):
        PixelEmbedder(4).embed(torch.rand(1, 3, 8, 8))
