# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor, pad_list_data_collate
from monai.inferers import SliceInferer
from torch import Tensor

from monai_dpmm_ad.calibration.drift import PatchSummary
from monai_dpmm_ad.network.inferer import VolumeInferer, iterate_slices
from monai_dpmm_ad.transforms.slices import SampleSlices


def double(images: Tensor, positions: Tensor | None = None) -> Tensor:
    return 2 * images[:, images.shape[1] // 2][:, None]


@pytest.fixture
def volume() -> Tensor:
    volume = torch.rand(1, 1, 6, 5, 4)
    volume[..., 1] = 0
    return volume


@pytest.mark.parametrize("axes", [["axial"], ["coronal"], ["sagittal"], ["axial", "coronal", "sagittal"]])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_voxel_comes_back_to_its_place(volume: Tensor, axes: list[str], channels: int) -> None:
    torch.testing.assert_close(VolumeInferer(axes, 3, channels)(volume, double), 2 * volume)


def test_it_agrees_with_monais_slice_inferer(volume: Tensor) -> None:
    theirs = SliceInferer(roi_size=(6, 5), spatial_dim=2, sw_batch_size=2)(volume, double)
    torch.testing.assert_close(VolumeInferer()(volume, double), theirs)


def test_empty_slices_never_reach_the_network(volume: Tensor) -> None:
    seen = []

    def network(images: Tensor, positions: Tensor) -> Tensor:
        seen.append(positions)
        return images

    VolumeInferer(batch_size=2)(volume, network)
    torch.testing.assert_close(torch.cat(seen), torch.tensor([0.125, 0.625, 0.875]))


def test_pictures_go_straight_through() -> None:
    images = torch.rand(1, 1, 7, 9)
    torch.testing.assert_close(VolumeInferer(channels=3)(images, double), 2 * images)


def test_the_map_keeps_the_images_history(volume: Tensor) -> None:
    image = MetaTensor(volume, meta={"name": "a"}, applied_operations=[{"class": "X"}])
    result = VolumeInferer()(image, double)
    assert result.meta["name"] == "a"
    assert result.applied_operations == image.applied_operations


def test_neighbours_are_the_adjacent_slices() -> None:
    slices = torch.arange(1.0, 5.0).view(4, 1, 1, 1)
    _, images, _ = next(iterate_slices(slices, 8, 3))
    assert images.flatten(1).tolist() == [[1, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 1, 4, 4, 3)])
def test_each_scan_gets_its_own_summary_on_request(shape: tuple[int, ...]) -> None:
    def network(images: Tensor, positions: Tensor | None, summarise: bool) -> tuple[Tensor, PatchSummary]:
        assert summarise
        return 2 * images, PatchSummary(images.flatten()[:5], torch.zeros(0))

    scans = torch.ones(shape)
    scans[1] = 3
    maps, summaries = VolumeInferer(batch_size=2)(scans, network, summarise=True)
    assert torch.equal(maps, 2 * scans)
    assert [summary["profile"] for summary in summaries] == [[1.0] * 3, [3.0] * 3]


def test_a_scan_without_foreground_has_no_summary() -> None:
    maps, summaries = VolumeInferer()(torch.zeros(1, 1, 4, 4, 3), double, summarise=True)
    assert not maps.any()
    assert summaries == [None]


def slab_means(images: Tensor, positions: Tensor) -> Tensor:
    """Each slice has its own height everywhere."""
    return (images > 0) * (10 * positions[:, None, None, None])


def test_maps_between_the_slices_that_are_seen_are_interpolated() -> None:
    scan = MetaTensor(torch.ones(1, 1, 8, 6, 10), affine=torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0])))
    seen: list[float] = []

    def network(images: Tensor, positions: Tensor, **_: float) -> Tensor:
        seen.extend(positions.tolist())
        return slab_means(images, positions)

    profile = VolumeInferer(batch_size=2, slice_spacing=1 / 8)(scan, network)[0, 0, 3, 3]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([0.05, 0.35, 0.65, 0.95]))
    torch.testing.assert_close(profile.as_subclass(Tensor), torch.arange(0.5, 10))


@pytest.mark.parametrize("axes", [["axial"], ["axial", "coronal", "sagittal"]])
def test_slices_left_out_change_no_constant_map_and_no_background(axes: list[str]) -> None:
    scan = torch.zeros(1, 1, 20, 16, 12)
    for depth in range(1, 12):  # a cone: slices have pixels that none of their neighbours has
        scan[..., 10 - depth // 2 : 10 + depth, 8 - depth // 2 : 8 + depth // 2 + 1, depth] = 1
    maps = VolumeInferer(axes, 4, slice_spacing=0.3)(scan, lambda images, positions, **_: 7.0 * (images > 0))
    torch.testing.assert_close(maps, 7 * scan)


def test_an_empty_slice_between_stays_empty_and_ends_take_the_nearest() -> None:
    scan = torch.ones(1, 1, 10, 10, 8)
    scan[..., 3] = 0
    maps = VolumeInferer(slice_spacing=0.4)(scan, lambda images, positions: images * positions[:, None, None, None])
    profile = maps[0, 0, 5, 5]
    torch.testing.assert_close(profile, torch.tensor([1.5, 1.5, 2.5, 0.0, 4.5, 5.5, 6.5, 6.5]) / 8)


@pytest.mark.parametrize(
    ("spacing", "fitted", "mapped"),
    [((1, 1, 1), (4, 4, 4), 9), ((1, 1, 2), (4, 4, 4), 10), ((1, 1, 4), (12, 0, 0), 12), ((4, 1, 1), (0, 12, 0), 12)],
)
def test_auto_fits_as_many_slices_as_one_plane_has_and_maps_with_gaps(
    spacing: tuple[float, float, float], fitted: tuple[int, int, int], mapped: int
) -> None:
    affine = torch.diag(torch.tensor([*spacing, 1.0]))
    scan = MetaTensor(torch.rand(1, 12, 12, 12) + 0.1, affine=affine)
    seen = {"axial": 0, "coronal": 0, "sagittal": 0}
    for sample in SampleSlices("auto")(scan):
        seen[sample["axis"]] += 1
    assert tuple(seen.values()) == fitted
    shown = []

    def network(images: Tensor, positions: Tensor, aspect: float = 1.0) -> Tensor:
        shown.append(len(images))
        return 0 * images + aspect

    maps = VolumeInferer("auto", slice_spacing=1 / 6)(MetaTensor(scan[None], affine=affine), network)
    torch.testing.assert_close(maps.as_tensor() > 0, torch.ones(1, 1, 12, 12, 12, dtype=torch.bool))
    assert sum(shown) == mapped


def test_a_slab_is_looked_at_in_its_plane() -> None:
    scan = MetaTensor(torch.rand(1, 12, 12, 3) + 0.1, affine=torch.eye(4))
    assert {sample["axis"] for sample in SampleSlices("auto")(scan)} == {"axial"}
    picture = SampleSlices("auto")(torch.rand(1, 12, 3))
    assert [sample["axis"] for sample in picture] == ["axial"]


def test_no_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one axis"):
        VolumeInferer([])


def test_scans_that_were_padded_to_one_shape_are_refused() -> None:
    scans = [{"image": MetaTensor(torch.rand(1, 6, 5, size))} for size in (4, 4, 3)]
    same = pad_list_data_collate(scans[:2])["image"]
    assert VolumeInferer()(same, double).shape == same.shape
    with pytest.raises(ValueError, match="`inputs` must be scans as they were cropped, got a batch that was padded"):
        VolumeInferer()(pad_list_data_collate(scans)["image"], double)
