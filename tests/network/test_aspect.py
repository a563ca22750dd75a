# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Pixels that are not square: the embedder sees them square, the map stays on the slice's own grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from monai_dpmm_ad.network import AnomalyNet, VolumeInferer
from monai_dpmm_ad.ops.slices import pixel_aspect, voxel_sizes


@pytest.fixture(scope="module")
def network(bundle) -> AnomalyNet:
    from monai_dpmm_ad.bundle import load_workflow

    return load_workflow(bundle, ["inference"], "inference").parser.get_parsed_content("network")


def make_slice() -> Tensor:
    """A disc with a pattern, background exactly 0, ``(1, 1, 96, 96)``."""
    grid = torch.linspace(-1, 1, 96)
    radius = torch.hypot(grid[:, None], grid[None])
    pattern = 0.5 + 0.3 * torch.sin(9 * grid)[:, None] * torch.cos(7 * grid)[None]
    return torch.where(radius < 0.9, pattern, 0)[None, None]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("factor", [2])  # thinner ones lose what random features look at
@torch.no_grad()
def test_a_slice_of_oblong_pixels_has_nearly_the_map_of_square_ones(dim: int, factor: int, network: AnomalyNet) -> None:
    square = make_slice()
    size = [96, 96]
    size[dim - 2] //= factor
    thin = F.interpolate(square, size, mode="area") * (F.interpolate((square > 0).float(), size) > 0)
    aspect = float(factor) if dim == 2 else 1 / factor
    assert network.resized_shape(*size, aspect) == network.resized_shape(96, 96)
    whole = network(square)
    seen, squashed = (F.interpolate(network(thin, aspect=a), (96, 96)) for a in (aspect, 1.0))
    inside = (whole > 0) & (seen > 0) & (squashed > 0)
    errors = [float((whole - part)[inside].abs().mean()) for part in (seen, squashed)]
    assert errors[0] < 0.5 * errors[1]
    assert network(thin, aspect=aspect).shape == thin.shape


@torch.no_grad()
def test_square_pixels_are_mapped_as_ever(network: AnomalyNet) -> None:
    image = make_slice()
    assert torch.equal(network(image), network(image, aspect=1.0))


@pytest.mark.parametrize(("axis", "aspect"), [("axial", 0.5), ("coronal", 2.5), ("sagittal", 5.0)])
def test_the_inferer_tells_the_shape_of_pixels_from_the_affine(axis: str, aspect: float) -> None:
    seen = []

    def watch(images: Tensor, positions: Tensor | None, **options: float) -> Tensor:
        seen.append(options)
        return images[:, :1]

    affine = torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0]))
    volume = MetaTensor(torch.rand(1, 1, 4, 5, 6) + 0.1, affine=affine)
    VolumeInferer((axis,))(volume, watch)
    assert [options["aspect"] for options in seen] == [pytest.approx(aspect)] * len(seen) != []
    seen.clear()
    VolumeInferer((axis,))(MetaTensor(torch.rand(1, 1, 4, 5, 6) + 0.1, affine=torch.eye(4)), watch)
    assert all(not options for options in seen)
    VolumeInferer()(MetaTensor(torch.rand(1, 1, 4, 5), affine=affine), watch)
    assert seen[-1] == {"aspect": pytest.approx(0.5)}


def test_voxel_sizes_are_those_of_a_turned_affine() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(turn @ np.diag([1.0, 2.0, 3.0]))
    for image in (MetaTensor(torch.zeros(1, 4, 4, 4), affine=affine), torch.zeros(1, 4, 4, 4)):
        expected = [1, 2, 3] if isinstance(image, MetaTensor) else [1, 1, 1]
        assert voxel_sizes(image, batched=False).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("sizes", [[1.0, 1.01, 1.0], [0.0, 1.0, 1.0], [float("nan"), 1.0, 1.0]])
def test_nearly_square_and_unknown_pixels_count_as_square(sizes: list[float]) -> None:
    assert pixel_aspect(torch.tensor(sizes), "axial") == 1
