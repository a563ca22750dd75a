# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several sequences as the channels of one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.heads import affine_of, make_head
from monai.data import MetaTensor
from numpy.typing import NDArray

from monai_dpmm_ad.calibration.drift import PatchSummary
from monai_dpmm_ad.errors import ScanError, find_scan_error
from monai_dpmm_ad.network import AnomalyNet, SequenceNet, VolumeInferer
from monai_dpmm_ad.transforms import LoadScand, preprocess_scan
from monai_dpmm_ad.transforms.sequences import SumSequencesd, find_present, sum_maps


def save(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> dict[str, Any]:
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return {"image": str(path)}


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    """T1, a missing T2, and a FLAIR of thick slices that are cut in another order."""
    head, affine = make_head(noise=0.3), affine_of()
    flair = np.where(head > 0, 2.2 - head, 0)[:, ::-1, ::2]
    turned = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, head.shape[1] - 1], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    return {"T1": save(tmp_path / "T1.nii", head, affine), "T2": None, "FLAIR": save(tmp_path / "F.nii", flair, turned)}


def whole(parts: dict[str, Any]) -> dict[str, Any]:
    first = next(part for part in parts.values() if part)
    return {"image": first["image"], "sequences": parts, "name": "scan"}


def test_all_lie_on_the_grid_of_the_first(parts: dict[str, Any]) -> None:
    item = LoadScand()(whole(parts))
    image = item["image"]
    first = nib.load(parts["T1"]["image"])
    assert "sequences" not in item
    assert image.shape == (3, *first.shape)
    assert np.array_equal(image[0], first.get_fdata(dtype=np.float32))
    assert not image[1].any()
    flair = np.where(first.get_fdata() > 0, 2.2 - first.get_fdata(), 0)
    assert np.allclose(image[2][:, :, ::2], flair[:, :, ::2], atol=1e-4)  # every other slice was there
    assert np.allclose(image.affine, first.affine)
    assert image.meta["present"] == "101"
    assert json.loads(image.meta["notes"]) == ["T2 is missing: the other sequences are judged"]


def test_one_of_them_is_fitted_where_it_will_be_mapped(parts: dict[str, Any]) -> None:
    together = preprocess_scan()(whole(parts))["image"]
    one = preprocess_scan()({**parts["FLAIR"], "onto": parts["T1"], "name": "scan"})["image"]
    inside = one[0] > 0
    box = [np.flatnonzero(together[2].numpy().any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    cut = together[2][tuple(slice(ends[0], ends[-1] + 1) for ends in box)]
    assert torch.equal(one[0].as_tensor(), cut.as_tensor())
    assert inside.any()
    assert one.meta["filename_or_obj"] == parts["FLAIR"]["image"]


def test_volumes_of_a_4d_file_are_sequences(tmp_path: Path) -> None:
    both = np.stack([make_head(), make_head(seed=1, noise=0.3)], -1)
    file = save(tmp_path / "4d.nii.gz", both, affine_of())
    image = LoadScand()(whole({"T1": {**file, "channel": 1}, "FLAIR": {**file, "channel": 0}}))["image"]
    assert np.array_equal(image[0], both[..., 1])
    assert np.array_equal(image[1], both[..., 0])
    with pytest.raises(ScanError, match=r"has shape \(34, 40, 30, 2\), but its volume 3 is asked for"):
        LoadScand()({**file, "channel": 2})


def test_sequences_too_far_apart_are_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    far = affine_of(4.0)
    far[0, 3] += 130
    parts["FLAIR"] = save(tmp_path / "far.nii", make_head(), far)
    with pytest.raises(ScanError, match=r"lies too far from the first sequence, .*T1\.nii, .*: they share \d+ % of"):
        LoadScand()(whole(parts))


def test_pictures_of_different_shape_are_refused(tmp_path: Path) -> None:
    flat = [save(tmp_path / f"{size}.nii", np.arange(9.0 * size).reshape(size, 9), np.eye(4)) for size in (8, 9)]
    with pytest.raises(ScanError, match="what is no volume must have the grid of the first sequence"):
        LoadScand()(whole({"T1": flat[0], "T2": flat[1]}))


def test_each_is_scaled_by_itself(parts: dict[str, Any]) -> None:
    image = preprocess_scan()(whole(parts))["image"]
    assert find_present(image) == [0, 2]
    for number in (0, 2):
        assert float(image[number][image[number] > 0].median()) == pytest.approx(1 / 3, abs=0.01)
    facts = json.loads(image.meta["facts"])
    assert facts["range"] == json.loads(preprocess_scan()({**parts["T1"], "name": "a"})["image"].meta["facts"])["range"]


def test_a_damaged_sequence_is_named(parts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.nii").write_text("hello")
    parts["T2"] = {"image": str(tmp_path / "bad.nii")}
    with pytest.raises(RuntimeError) as caught:
        preprocess_scan()(whole(parts))
    error = find_scan_error(caught.value)
    assert error is not None
    assert error.path == str(tmp_path / "bad.nii")


def test_each_is_mapped_as_if_it_were_alone() -> None:
    volume = torch.zeros(1, 3, 9, 8, 7)
    volume[0, 0, 1:8, 2:7, 1:6] = torch.rand(7, 5, 5) + 0.1
    volume[0, 2, 3:9, 0:4, 2:7] = torch.rand(6, 4, 5) + 0.1

    def network(slices: torch.Tensor, positions: torch.Tensor, sequence: int = 0) -> torch.Tensor:
        size = slices.shape[-2] + 10 * slices.shape[-1]  # a map that depends on the box
        return (sequence + 1) * slices[:, :1] * (size + positions[:, None, None, None])

    maps = VolumeInferer(axes=("axial", "coronal"))(volume, network)
    alone = VolumeInferer(axes=("axial", "coronal"))(volume[:, 2:, 3:9, 0:4, 2:7], network)
    assert torch.allclose(maps[0, 2, 3:9, 0:4, 2:7], 3 * alone[0, 0])
    assert not maps[0, 1].any()


def test_pictures_of_several_sequences_are_mapped_one_by_one() -> None:
    pictures = torch.rand(1, 2, 6, 5)

    def network(slices: torch.Tensor, positions: torch.Tensor | None, sequence: int) -> torch.Tensor:
        return (sequence + 1) * slices[:, :1]

    maps = VolumeInferer()(pictures, network)
    assert torch.equal(maps, pictures * torch.tensor([1, 2]).view(1, 2, 1, 1))


def test_what_is_said_of_patches_is_said_of_each() -> None:
    volume = torch.zeros(1, 2, 6, 5, 4)
    volume[0, 1] = 1.0

    def network(slices: torch.Tensor, positions: torch.Tensor, summarise: bool, sequence: int) -> Any:
        density = torch.full((len(slices),), 7.0 + sequence)
        return slices[:, :1], PatchSummary(density, torch.zeros(0))

    _, told = VolumeInferer()(volume, network, summarise=True)
    assert told == [[None, {"profile": [8.0, 8.0, 8.0], "usage": []}]]


def test_maps_are_summed_over_those_that_are_there(pixel_networks: list[AnomalyNet]) -> None:
    net = SequenceNet(["T1", "T2"], pixel_networks)
    net.scales.copy_(torch.tensor([2.0, 3.0]))
    maps = MetaTensor(torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 10.0)]))
    image = MetaTensor(torch.empty(0), meta={"present": "11", "filename_or_obj": "a.nii"})
    assert float(SumSequencesd(net)({"pred": maps, "image": image})["pred"].max()) == 32
    assert float(sum_maps(maps.as_tensor(), net.scales, "01").min()) == 30
    net.calibration.update(torch.rand(4, 4), None, 0.5)
    net.calibration.finish()
    image.meta["present"] = "01"
    with pytest.raises(ScanError, match=r"a\.nii: has a choice of sequences that no held-out healthy scan had"):
        SumSequencesd(net)({"pred": maps, "image": image})


@pytest.fixture
def pixel_networks() -> list[AnomalyNet]:
    from monai_dpmm_ad.detectors import create_detector
    from monai_dpmm_ad.embedding import create_embedder

    embedder = create_embedder("pixels-8")
    return [AnomalyNet(embedder, create_detector("dpmm", 64), image_size=64) for _ in range(2)]


def test_a_network_for_each_name(pixel_networks: list[AnomalyNet]) -> None:
    with pytest.raises(ValueError, match="`networks` must be one for each of the 3 names, got 2"):
        SequenceNet(["T1", "T2", "FLAIR"], pixel_networks)
