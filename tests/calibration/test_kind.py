# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A word for one scan: of another kind than what was fitted, or further off than healthy scans lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_dpmm_ad.calibration.drift import DriftReference
from monai_dpmm_ad.calibration.kind import FittedKind


def facts(**changes: Any) -> dict[str, Any]:
    scan = {"spatial_dims": 3, "modality": "MR", "sizes": [1.0, 1.0, 2.0], "range": [20, 400, 900], "volume": 3000.0}
    return {**scan, **changes}


def draw(number: int, seed: int) -> list[dict[str, Any]]:
    """Healthy adults at several scanners: gains, voxel sizes and heads differ."""
    generator = np.random.default_rng(seed)
    gains, sizes = np.exp(generator.normal(0, 0.7, number)), generator.uniform(0.9, 1.2, (number, 3))
    volumes = 3000 * np.exp(generator.normal(0, 0.1, number))
    return [
        facts(range=[20 * gain, 400 * gain, 900 * gain], sizes=list(size), volume=float(volume))
        for gain, size, volume in zip(gains, sizes, volumes, strict=True)
    ]


def fitted(scans: list[dict[str, Any]]) -> FittedKind:
    kind = FittedKind()
    kind.fit(scans)
    return kind


@pytest.mark.parametrize("number", [1, 2, 4, 20])
def test_healthy_scans_of_the_same_kind_are_rarely_called_unlike(number: int) -> None:
    called = [bool(fitted(draw(number, seed)).compare(scan)) for seed in range(40) for scan in draw(10, 1000 + seed)]
    assert np.mean(called) <= 0.05


KINDS = {
    "modality": (facts(modality="CT"), "its modality is CT, where MR was fitted"),
    "dims": (facts(spatial_dims=2, sizes=[1.0, 1.0], volume=0.0), "it is 2D, where 3D scans were fitted"),
    "thick": (facts(sizes=[1.0, 1.0, 8.0]), "its voxels measure 1 × 1 × 8 mm, where"),
    "coarse": (facts(sizes=[3.0, 1.0, 1.0]), "its voxels measure 3 × 1 × 1 mm, where"),
    "standardised": (facts(range=[-2.1, 0.1, 2.4]), "its intensities run from -2.1 to 2.4, where"),
    "scaled": (facts(range=[1e-5, 4e-4, 9e-4]), "its intensities run from 1e-05 to 0.0009"),
    "slice": (facts(volume=0.0), "it is a single slice, where volumes were fitted"),
    "child": (facts(volume=1300.0), "what it shows is small, 1300 mL, where"),
    "large": (facts(volume=9000.0), "what it shows is large, 9000 mL, where"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [2, 4, 20])
def test_each_other_kind_is_named(kind: str, number: int) -> None:
    scan, words = KINDS[kind]
    assert any(clause.startswith(words) for clause in fitted(draw(number, 0)).compare(scan))


def test_a_volume_among_single_slices_is_named() -> None:
    slices = fitted([facts(volume=0.0), facts(volume=0.0)])
    assert slices.compare(facts()) == ["it is a volume, where single slices were fitted"]
    assert slices.compare(facts(volume=0.0)) == []


def test_what_is_not_known_is_not_compared() -> None:
    assert FittedKind().compare(facts(modality="CT")) == []
    assert FittedKind().spatial_dims is None
    plain = fitted([facts(modality="")])
    assert plain.compare(facts(modality="MR")) == []
    assert plain.compare(facts(modality="CT")) == ["its modality is CT, where no CT was fitted"]
    both = fitted([facts(), facts(spatial_dims=2, sizes=[1, 1], volume=0)])
    assert both.spatial_dims is None
    assert both.compare(facts()) == []


def test_a_state_of_before_loads_and_says_nothing() -> None:
    kind = fitted([facts()])
    again = FittedKind()
    again.load_state_dict(kind.state_dict())
    assert again.compare(facts(modality="CT")) == kind.compare(facts(modality="CT")) != []
    again.load_state_dict({})
    assert again.compare(facts(modality="CT")) == []


# -------------------------------------------------------------------------------------------------------- effect sizes


def profiles(number: int, seed: int, shift: float = 0.0, mix: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Quartiles ``(n, 3)`` of log densities, and usage ``(n, 6)``; ``mix`` puts usage into one component."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(shift, 1.0, number)
    quartiles = centres[:, None] + np.array([-4.0, 0.0, 4.0]) + generator.normal(0, 0.2, (number, 3))
    usage = (1 - mix) * generator.dirichlet(np.array([80.0, 60, 40, 20, 10, 2]), number) + mix * np.eye(6)[5]
    return torch.from_numpy(quartiles), torch.from_numpy(usage)


def reference(number: int, seed: int) -> DriftReference:
    drift = DriftReference(6)
    drift.fit(*profiles(number, seed))
    return drift


def warned(number: int, repeats: int = 60, **changes: float) -> float:
    found = []
    for seed in range(repeats):
        drift = reference(number, seed)
        found += [drift.judge(*scan) is not None for scan in zip(*profiles(5, 500 + seed, **changes), strict=True)]
    return float(np.mean(found))


@pytest.mark.parametrize("number", [1, 2, 4, 16, 60])
def test_at_most_one_in_twenty_healthy_scans_is_warned_of(number: int) -> None:
    assert warned(number) <= 0.05


@pytest.mark.parametrize("number", [1, 2, 4, 16])
@pytest.mark.parametrize("shift", [-30.0, 30.0])
def test_a_scan_far_off_is_always_warned_of(number: int, shift: float) -> None:
    assert warned(number, repeats=20, shift=shift) == 1


@pytest.mark.parametrize("number", [8, 16])
def test_another_use_of_the_components_is_warned_of(number: int) -> None:
    assert warned(number, repeats=20, mix=0.6) > 0.9


def test_the_sentence_gives_size_and_direction() -> None:
    (off, usage), *_ = zip(*profiles(1, 900, shift=-40.0), strict=True)
    sentence = reference(16, 0).judge(off, usage)
    assert sentence is not None
    assert "standard deviations less like what was fitted" in sentence
    assert DriftReference(6).judge(off, usage) is None


# ------------------------------------------------------------------------------------------------------------ pictures


def picture(rim: float, colour: float = 0.0) -> dict[str, Any]:
    return facts(spatial_dims=2, modality="", sizes=[1.0, 1.0], volume=0.0, rim=rim, colour=colour)


def draw_pictures(number: int, seed: int) -> list[dict[str, Any]]:
    """Slices of heads: most lie in air, some touch the rim."""
    generator = np.random.default_rng(seed)
    return [picture(float(rim), float(tint)) for rim, tint in generator.uniform(0, [0.3, 0.01], (number, 2)) ** 2]


@pytest.mark.parametrize("number", [2, 8, 60])
def test_a_photo_is_named_and_slices_are_not(number: int) -> None:
    called = []
    for seed in range(20):
        kind = fitted(draw_pictures(number, seed))
        assert kind.compare(picture(0.01, colour=0.2)) == ["it is in colour, where grey pictures were fitted"]
        called += [bool(kind.compare(scan)) for scan in draw_pictures(10, 1000 + seed)]
    assert np.mean(called) <= 0.05
    (clause,) = fitted(draw_pictures(60, 0)).compare(picture(1.0))
    assert clause.startswith("100% of its rim is foreground, where 0 to 9 % were fitted")


def test_of_a_volume_and_an_old_bundle_neither_is_known() -> None:
    assert fitted(draw(20, 0)).compare({**draw(1, 1)[0], "rim": 1.0, "colour": 1.0}) == []
    kind, old = fitted(draw_pictures(20, 0)), FittedKind()
    old.load_state_dict({name: values for name, values in kind.state_dict().items() if name != "pictures"})
    assert old.compare(picture(1.0, 1.0)) == []
    assert len(kind.compare(picture(1.0, 1.0))) == 2
