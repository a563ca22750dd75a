# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch

from monai_dpmm_ad.embedding.types import PatchEmbeddings


def test_grid() -> None:
    assert PatchEmbeddings(torch.zeros(2, 1, 4, 5, 8), torch.zeros(2, 1, 8)).grid == (4, 5)


@pytest.mark.parametrize(
    ("patches", "cls", "message"),
    [((2, 4, 5, 8), (2, 1, 8), "(B, S, h, w, D)"), ((2, 1, 4, 5, 8), (2, 1, 7), "(2, 1, 8)")],
)
def test_shapes_are_checked(patches: tuple[int, ...], cls: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match="must have shape") as caught:
        PatchEmbeddings(torch.zeros(patches), torch.zeros(cls))
    assert message in str(caught.value)
