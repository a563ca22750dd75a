# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.detectors.ogae.autoencoders import make_autoencoder


@pytest.mark.parametrize("side", [2, 3, 5, 8, 14, 16, 28, 31])
def test_convolutions_give_back_the_shape(side: int) -> None:
    rows = torch.rand(3, side * side)
    latents, decoded = make_autoencoder("conv", side * side, 7, width=4)(rows)
    assert latents.shape == (3, 7)
    assert decoded.shape == rows.shape


def test_the_mlp_gives_back_the_shape() -> None:
    latents, decoded = make_autoencoder("mlp", 10, 4)(torch.rand(3, 10))
    assert latents.shape == (3, 4)
    assert decoded.shape == (3, 10)


def test_positive_latents_are_positive() -> None:
    assert bool((make_autoencoder("mlp", 10, 4, positive=True).encode(torch.randn(50, 10)) > 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convo", 16, 4), "Did you mean 'conv'"),
        (("conv", 15, 4), "square"),
        (("mlp", 15, 0), "positive"),
        (("mlp", 15, 4, -1), "positive"),
    ],
)
def test_wrong_sizes_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_autoencoder(*arguments)
