# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Sampling slices of a volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.transforms import Compose

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.ops.slices import extract_slices
from monai_dpmm_ad.transforms import SampleSlices, SampleSlicesd
from monai_dpmm_ad.transforms.slices import select_slices


@pytest.fixture
def volume() -> torch.Tensor:
    """Along the last axis slice k has a foreground of 2k voxels, so the first has none."""
    image = torch.zeros(1, 4, 5, 8)
    for k in range(8):
        image[0].reshape(20, 8)[: 2 * k, k] = 0.1 + 0.1 * k
    return image


def _indices(samples):
    return [sample["slice_index"] for sample in samples]


def test_all_slices_with_foreground(volume):
    samples = SampleSlices()(volume)
    assert _indices(samples) == [1, 2, 3, 4, 5, 6, 7]
    slices = extract_slices(volume, "axial")
    for sample in samples:
        assert torch.equal(sample["image"], slices[sample["slice_index"]])
        assert sample["axis"] == "axial"
        assert sample["position"] == (sample["slice_index"] + 0.5) / 8
        assert "label" not in sample


def test_several_axes(volume):
    samples = SampleSlices(axes=("axial", "coronal", "sagittal"))(volume)
    shapes = {sample["axis"]: tuple(sample["image"].shape) for sample in samples}
    assert shapes == {"axial": (1, 4, 5), "coronal": (1, 8, 5), "sagittal": (1, 8, 4)}


def test_least_share_is_relative_to_the_largest_slice(volume):
    assert _indices(SampleSlices(min_foreground=0.5)(volume)) == [4, 5, 6, 7]
    assert _indices(SampleSlices(min_foreground=1.0)(volume)) == [7]


def test_uniform_is_evenly_spaced(volume):
    assert _indices(SampleSlices(selection="uniform", num_slices=3)(volume)) == [2, 4, 6]
    assert _indices(SampleSlices(selection="uniform", num_slices=1)(volume)) == [4]
    assert _indices(SampleSlices(selection="uniform", num_slices=50)(volume)) == [1, 2, 3, 4, 5, 6, 7]


def test_random_is_likely_as_asked():
    areas = torch.tensor([0, 1, 3, 0, 4])
    rng = np.random.default_rng(0)
    counts = {"random": np.zeros(5), "foreground": np.zeros(5)}
    for selection, count in counts.items():
        for _ in range(2000):
            count[select_slices(areas, selection, 1, rng)] += 1
    np.testing.assert_allclose(counts["random"] / 2000, [0, 1 / 3, 1 / 3, 0, 1 / 3], atol=0.04)
    np.testing.assert_allclose(counts["foreground"] / 2000, [0, 1 / 8, 3 / 8, 0, 1 / 2], atol=0.04)


@pytest.mark.parametrize("selection", ["random", "foreground"])
def test_choice_depends_on_seed_name_and_axis_only(volume, selection):
    options = {"selection": selection, "num_slices": 3}
    first = _indices(SampleSlices(**options)(volume, name="a"))
    sampler = SampleSlices(**options)
    sampler.set_random_state(seed=99)
    sampler(volume, name="b")
    assert _indices(sampler(volume, name="a")) == first
    assert first == sorted(set(first))
    others = {tuple(_indices(sampler(volume, name=name))) for name in "bcdefgh"}
    assert len(others) > 1
    seeds = {tuple(_indices(SampleSlices(**options, seed=seed)(volume, name="a"))) for seed in range(8)}
    assert len(seeds) > 1
    from_meta = SampleSlices(**options)(MetaTensor(volume, meta={"name": "a"}))
    assert _indices(from_meta) == first


def test_without_seed_monais_random_state_decides(volume):
    def draw(seed):
        transform = Compose([SampleSlicesd(selection="random", num_slices=3, seed=None)])
        transform.set_random_state(seed=seed)
        return [_indices(transform({"image": volume})) for _ in range(5)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len({tuple(indices) for indices in draw(1)}) > 1


def test_marked_slices_are_left_out(volume):
    label = torch.zeros(volume.shape, dtype=torch.bool)
    label[0, 0, 0, [2, 5]] = True
    assert _indices(SampleSlices(exclude="slices")(volume, label)) == [1, 3, 4, 6, 7]
    samples = SampleSlices()(volume, label)
    assert _indices(samples) == [1, 2, 3, 4, 5, 6, 7]
    marked = [sample["slice_index"] for sample in samples if sample["label"].any()]
    assert marked == [2, 5]
    assert samples[0]["label"].dtype == torch.bool
    assert samples[0]["label"].shape == (1, 4, 5)
    assert _indices(SampleSlices(exclude="slices")(volume)) == [1, 2, 3, 4, 5, 6, 7]


def test_neighbours_are_channels_and_edges_repeat(volume):
    samples = {s["slice_index"]: s["image"] for s in SampleSlices(channels=3)(volume)}
    slices = extract_slices(volume, "axial")[:, 0]
    assert torch.equal(samples[3], slices[[2, 3, 4]])
    assert torch.equal(samples[7], slices[[6, 7, 7]])
    assert torch.equal(samples[1], slices[[0, 1, 2]])  # a neighbour need not be a candidate itself


def test_picture_is_one_slice():
    picture = torch.rand(1, 6, 7) + 0.1
    label = torch.zeros(1, 6, 7)
    label[0, 0, 0] = 254
    (sample,) = SampleSlices(axes=("axial",), channels=3, selection="random", num_slices=4)(picture, label)
    assert torch.equal(sample["image"], picture.expand(3, -1, -1))
    assert sample["position"] == 0.5
    assert sample["slice_index"] == 0
    assert int(sample["label"].sum()) == 1


def test_slices_are_copies(volume):
    before = volume.clone()
    for sample in SampleSlices()(volume):
        sample["image"].zero_()
    assert torch.equal(volume, before)


def test_nothing_left_names_the_scan(volume):
    scan = MetaTensor(volume, meta={"filename_or_obj": "/data/x.nii.gz"})
    with pytest.raises(ScanError, match=r"^/data/x\.nii\.gz: no slice without a label mark has enough foreground"):
        SampleSlices(exclude="slices")(scan, torch.ones_like(volume))
    with pytest.raises(ScanError, match="no slice has enough foreground"):
        SampleSlices()(torch.zeros_like(volume))


def test_dictionary_version_in_a_data_loader(volume):
    items = [{"image": volume, "label": volume > 0.5, "name": name, "abnormal": 0} for name in "ab"]
    dataset = Dataset(items, Compose([SampleSlicesd(selection="uniform", num_slices=2)]))
    (batch,) = DataLoader(dataset, batch_size=2, collate_fn=list_data_collate)
    assert batch["image"].shape == (4, 1, 4, 5)
    assert batch["label"].dtype == torch.bool
    assert batch["name"] == ["a", "a", "b", "b"]
    assert SampleSlicesd(allow_missing_keys=True)({"name": "a"}) == [{"name": "a"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": ("axail",)}, "`axes` must be one of .*Did you mean 'axial'"),
        ({"axes": ()}, "`axes` must name at least one axis"),
        ({"axes": ("auto", "axial")}, "`axes` must be auto alone or some of axial, coronal, sagittal, got auto, axial"),
        ({"selection": "unifrom"}, "`selection` must be one of .*Did you mean 'uniform'"),
        ({"selection": "uniform"}, "`num_slices` must be given with selection 'uniform'"),
        ({"selection": "random", "num_slices": 0}, "`num_slices` must be .* at least 1"),
        ({"num_slices": 3}, "`num_slices` must be None for selection 'all'"),
        ({"min_foreground": 2}, r"`min_foreground` must lie in \[0, 1\], got 2"),
        ({"exclude": "patches"}, "`exclude` must be one of none, slices"),
        ({"channels": 2}, "`channels` must be 1 or 3, got 2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SampleSlices(**options)


def test_bad_shapes(volume):
    with pytest.raises(ValueError, match=r"`img` must have shape"):
        SampleSlices()(volume[0])
    with pytest.raises(ValueError, match=r"`label` must have the image's shape"):
        SampleSlices()(volume, volume[:, 1:])
    with pytest.raises(ValueError, match="`keys` must name one image"):
        SampleSlicesd(["a", "b"])
