# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math

import pytest
import torch

from monai_dpmm_ad.transforms.rotate import check_rotations, rotate_slices


@pytest.fixture
def item() -> dict:
    image = torch.zeros(1, 20, 14)
    image[:, 4:16, 3:11] = torch.rand(1, 12, 8, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    label = torch.zeros(1, 20, 14)
    label[:, 5, 5] = 254
    return {"image": image, "label": label, "position": 0.5}


def test_a_quarter_turn_is_exact(item: dict) -> None:
    turned = rotate_slices([item], 90)[0]
    candidates = [torch.rot90(item["image"], turns, (1, 2)) for turns in (1, -1)]
    assert any(torch.allclose(turned["image"], other, atol=1e-4) for other in candidates)
    assert turned["position"] == 0.5


@pytest.mark.parametrize("angle", [7.0, -30.0, 45.0])
def test_the_head_keeps_its_area_and_its_background(item: dict, angle: float) -> None:
    turned = rotate_slices([item], angle)[0]
    assert turned["image"].min() == 0
    assert int((turned["image"] > 0).sum()) == pytest.approx(96, rel=0.08)
    assert turned["image"].max() <= item["image"].max() + 1e-6
    assert 1 <= int((turned["label"] > 0).sum()) <= 6


def test_no_turn_changes_nothing(item: dict) -> None:
    for angle in (0, 360):
        assert torch.equal(rotate_slices([item], angle)[0]["image"], item["image"])


@pytest.mark.parametrize("rotations", [[], [0, 360], [math.nan], [5, 5]])
def test_bad_angles_are_refused(rotations: list) -> None:
    with pytest.raises(ValueError, match="`rotations` must be different angles"):
        check_rotations(rotations)
