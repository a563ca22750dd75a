# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The weights that ship with the package, and the entry point to all embedders."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monai_dpmm_ad.embedding import Embedder, compact_path, create_embedder
from monai_dpmm_ad.errors import CheckpointError


@pytest.fixture(scope="module")
def compact() -> Embedder:
    return create_embedder("compact")


def test_compact_ships_with_the_package(compact: Embedder) -> None:
    assert compact_path().is_dir()
    assert (compact_path() / "MODEL_CARD.md").is_file()
    assert compact.fingerprint()["name"] == "compact"
    assert sum(path.stat().st_size for path in compact_path().iterdir()) < 30e6


def test_compact_notices_a_small_bright_spot(compact: Embedder) -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 112), torch.linspace(-1, 1, 112), indexing="ij")
    head = ((x**2 + y**2) < 0.8).float()[None, None] / 3
    spotted = head.clone()
    spotted[..., 50:55, 58:63] = 0.8
    before, after = (torch.nn.functional.normalize(compact.embed(i).patches[0, 0], dim=-1) for i in (head, spotted))
    change = 1 - (before * after).sum(-1)
    row, column = divmod(int(change.argmax()), change.shape[1])
    size = compact.patch_size
    assert row in (49 // size, 55 // size)
    assert column in (57 // size, 63 // size)


def test_bfloat16_moves_the_embeddings_by_less_than_2e_4(compact: Embedder) -> None:
    exact, fast = create_embedder("compact", autocast=False), create_embedder("compact", autocast=True)
    images = torch.rand(1, 1, 98, 98, generator=torch.Generator().manual_seed(0))  # noise: of scans it is less
    cosine = torch.cosine_similarity(exact.embed(images).patches, fast.embed(images).patches, dim=-1)
    assert 1 - cosine.min() < 2e-4


def test_options_reach_the_embedder(backbone: Callable[[str], Path]) -> None:
    embedder = create_embedder(backbone("dinov3"), stages=[0, 2], autocast=False)
    assert (embedder.num_stages, embedder.embed_dim, embedder.patch_size) == (2, 32, 14)
    assert embedder.fingerprint()["precision"] == "float32"


def test_loading_writes_nothing_on_the_terminal(
    backbone: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, level = backbone("vit"), logging.getLogger("transformers").level
    capfd.readouterr()
    create_embedder(folder)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert logging.getLogger("transformers").level == level


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`embedder` must be one of .*, got 'compcat'.*Did you mean 'compact'"):
        create_embedder("compcat")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        create_embedder("/no/such/folder")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        create_embedder("one/two/three")
