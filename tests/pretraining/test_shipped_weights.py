# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What ships as ``compact`` is what docs/compact.md and the model card speak of."""

from __future__ import annotations

import hashlib

import pytest
import torch
from transformers import Dinov2Model

from monai_dpmm_ad.embedding import compact_path

SHA256 = "a39f7a30260f9e1707ad6b165eb1d281a6569e8b259236bfaf8bf44f5208b2f9"


@pytest.fixture(scope="module")
def folder():
    return compact_path()


def test_weights_are_the_ones_documented(folder):
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == SHA256
    assert SHA256 in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 24e6


def test_from_pretrained_loads_them(folder):
    model = Dinov2Model.from_pretrained(folder, dtype=torch.float32).eval()
    size = 8 * model.config.patch_size
    with torch.no_grad():
        hidden = model(pixel_values=torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    tokens = hidden.last_hidden_state
    assert tokens.shape == (2, 65, model.config.hidden_size)
    assert tokens.isfinite().all()
    assert tokens[:, 1:].std(1).mean() > 0.1  # places differ: not collapsed
