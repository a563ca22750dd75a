# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small synthetic embeddings for the mixture's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def make_clusters() -> Callable[..., Tensor]:
    """A function that draws Gaussian clusters, (n, D)."""

    def make(num_data: int, embed_dim: int, num_clusters: int, seed: int = 0, spread: float = 0.15) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(num_clusters, embed_dim, generator=generator)
        labels = torch.randint(num_clusters, (num_data,), generator=generator)
        return centres[labels] + spread * torch.randn(num_data, embed_dim, generator=generator)

    return make


@pytest.fixture
def make_directions(make_clusters: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that draws clusters of unit vectors, (n, D)."""

    def make(*args: int, **kwargs: float) -> Tensor:
        return torch.nn.functional.normalize(make_clusters(*args, **kwargs), dim=1)

    return make
