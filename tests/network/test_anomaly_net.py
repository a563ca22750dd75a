# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny_vit import write_tiny_vit
from torch import Tensor

from monai_dpmm_ad.bundle.export import describe_graph
from monai_dpmm_ad.detectors import DPMMDetector, create_detector
from monai_dpmm_ad.embedding import create_embedder
from monai_dpmm_ad.errors import CheckpointError, NotFittedError
from monai_dpmm_ad.network import AnomalyNet


def make_network(vit: Path, **options: object) -> AnomalyNet:
    embedder = create_embedder(str(vit), autocast=False)
    detector_options = {name: options.pop(name) for name in ("score", "location_weight") if name in options}
    detector = DPMMDetector(embedder.embed_dim, num_components=4, **detector_options)
    return AnomalyNet(embedder, detector, **{"image_size": 56, **options})


def fit(network: AnomalyNet, images: Tensor) -> AnomalyNet:
    encoded = network.encode(images)
    valid = encoded.foreground >= network.min_foreground
    network.detector.initialize({name: values[valid] for name, values in encoded.rows().items()}, int(valid.sum()))
    return network


def compute_map(network: AnomalyNet, images: Tensor, shift: tuple[int, int]) -> Tensor:
    encoded = network.encode(images, shift=shift)
    valid = network.choose_patches(encoded)
    return network._place_scores(images, encoded, valid, network.detector.score_slices(encoded, valid), shift, 1.0)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 50, 42, generator=generator) * 0.9 + 0.1
    images[:, :, :20, :15] = 0
    return images


@pytest.fixture
def network(tiny_vit: Path, images: Tensor) -> AnomalyNet:
    return fit(make_network(tiny_vit), images)


def test_map_has_the_images_shape_and_only_foreground_scores(network: AnomalyNet, images: Tensor) -> None:
    maps = network(images)
    assert maps.shape == images.shape
    assert maps.min() >= 0
    assert torch.equal(maps == 0, images == 0)


def test_the_summary_comes_beside_the_same_maps(network: AnomalyNet, images: Tensor) -> None:
    maps, summary = network(images, summarise=True)
    assert torch.equal(maps, network(images))
    encoded = network.encode(images)
    valid = network.choose_patches(encoded)
    rows = {name: values[valid] for name, values in encoded.rows().items()}  # fewer than a summary's largest number
    assert torch.equal(summary.log_density, network.detector.criterion(rows))
    assert summary.usage.shape == (4,)
    assert float(summary.usage.sum()) == pytest.approx(int(valid.sum()))


def test_an_image_without_foreground_scores_nothing(network: AnomalyNet) -> None:
    assert not network(torch.zeros(1, 1, 40, 40)).any()


def test_each_slice_is_scored_by_itself(network: AnomalyNet, images: Tensor) -> None:
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-3)


def test_three_channels_take_the_middle_ones_foreground(network: AnomalyNet, images: Tensor) -> None:
    stacked = images.repeat(1, 3, 1, 1)
    torch.testing.assert_close(network(stacked), network(images))
    stacked[:, 0] = 0.5
    assert torch.equal(network(stacked) == 0, images == 0)


@pytest.mark.parametrize("score", ["log_density", "cosine", "euclidean", "mahalanobis"])
def test_scores_are_non_negative_and_rise_with_strangeness(tiny_vit: Path, images: Tensor, score: str) -> None:
    network = fit(make_network(tiny_vit, score=score), images)
    features = network.detector.features({"patches": torch.randn(64, 1, network.detector.feature_dim)})
    strange = network.detector.score(features)
    normal = network.detector.score(network.detector.mixture.posterior.means.float())
    assert strange.min() >= 0
    assert strange.median() > normal.median()


def test_shifts_average_maps_of_the_same_place(tiny_vit: Path, images: Tensor) -> None:
    network = fit(make_network(tiny_vit), images)
    shifted = make_network(tiny_vit, num_shifts=2)
    shifted.load_state_dict(network.state_dict())
    parts = [compute_map(network, images, (down, right)) for down in (0, 7) for right in (0, 7)]
    torch.testing.assert_close(shifted(images), torch.stack(parts).mean(0) * (images > 0))


def test_a_shift_by_a_whole_patch_changes_nothing_inside(tiny_vit: Path) -> None:
    images = torch.rand(1, 1, 56, 56) * 0.9 + 0.1
    network = fit(make_network(tiny_vit), images)
    network.embedder.embed = _mean_of_patches(network)  # features that know no position
    torch.testing.assert_close(compute_map(network, images, (14, 14)), compute_map(network, images, (0, 0)))


def _mean_of_patches(network: AnomalyNet):
    from monai_dpmm_ad.embedding.types import PatchEmbeddings

    def embed(padded: Tensor) -> PatchEmbeddings:
        pooled = torch.nn.functional.avg_pool2d(padded[:, :1], 14).movedim(1, -1)
        direction = torch.linspace(-1, 1, network.embedder.embed_dim)
        patches = (torch.ones_like(direction) + direction * pooled)[:, None]
        return PatchEmbeddings(patches, patches[:, :, 0, 0])

    return embed


def test_state_dict_round_trip_is_strict_and_holds_no_backbone(
    tiny_vit: Path, network: AnomalyNet, images: Tensor
) -> None:
    state = network.state_dict()
    assert not any(name.startswith("embedder") for name in state)
    assert all(isinstance(value, Tensor) for value in state.values())
    other = make_network(tiny_vit)
    other.load_state_dict(state)
    assert torch.equal(other(images), network(images))


def test_another_backbone_is_refused(tmp_path: Path, network: AnomalyNet) -> None:
    other = make_network(write_tiny_vit(tmp_path / "other", seed=1))
    with pytest.raises(CheckpointError, match="another backbone"):
        other.load_state_dict(network.state_dict())


def test_scoring_before_fitting_is_refused(tiny_vit: Path, images: Tensor) -> None:
    with pytest.raises(NotFittedError, match="not been fitted"):
        make_network(tiny_vit)(images)


def test_location_tells_places_apart(tiny_vit: Path, images: Tensor) -> None:
    network = make_network(tiny_vit, location_weight=0.5)
    encoded = network.encode(images, torch.tensor([0.0, 0.5, 1.0]))
    assert encoded.location.shape == (*encoded.foreground.shape, 3)
    assert encoded.location.min() >= 0
    assert encoded.location.max() <= 1
    assert torch.equal(encoded.location[:, 0, 0, 2], torch.tensor([0.0, 0.5, 1.0]))
    assert (encoded.location[:, 1:, :, 0] >= encoded.location[:, :-1, :, 0]).all()
    with pytest.raises(ValueError, match="VolumeInferer"):
        network.detector.features({"patches": encoded.embeddings.patches.movedim(1, 3)})


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.trace:DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:.*is_gradient_checkpointing:FutureWarning",
)
def test_tracing_gives_the_same_map(network: AnomalyNet, images: Tensor) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(network, images, check_trace=False)
        torch.testing.assert_close(traced(images), network(images))


def test_patches_that_the_mask_leaves_out_are_neither_fitted_nor_scored(tiny_vit: Path, images: Tensor) -> None:
    network = make_network(tiny_vit, patch_mask="pca", mask_closing=0)
    encoded = network.encode(images)
    kept = network.choose_patches(encoded)
    inside = encoded.foreground >= network.min_foreground
    assert not (kept & ~inside).any()
    assert 0 < kept.sum() < inside.sum()
    maps = fit(network, images)(images)
    assert not maps[images == 0].any()
    assert 0 < (maps > 0).sum() < (images > 0).sum()


@pytest.mark.parametrize(
    ("option", "value"), [("image_size", 3), ("min_foreground", 0.0), ("min_foreground", 1.5), ("num_shifts", 0)]
)
def test_options_out_of_range(tiny_vit: Path, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        make_network(tiny_vit, **{option: value})


def test_a_graph_says_what_is_outside_of_it() -> None:
    embedder = create_embedder("pixels-8")
    for normative, said in (("on", "Judging by place"), ("off", "")):
        network = AnomalyNet(embedder, create_detector("dpmm", embedder.embed_dim), image_size=64, normative=normative)
        assert describe_graph(network, 1, (64, 64))["outside_the_graph"].startswith(said)
        assert (network.normative is None) == (normative == "off")


def test_a_tail_of_intensities_and_a_normative_map_exclude_each_other() -> None:
    embedder = create_embedder("pixels-8")
    with pytest.raises(ValueError, match="Choose `intensity_side`"):
        AnomalyNet(
            embedder, create_detector("dpmm", embedder.embed_dim), image_size=64, intensity_tail="dark", normative="on"
        )
