# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Scans as another scanner might have acquired them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_dpmm_ad.data.acquisitions import add_acquisitions
from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms import acquire, preprocess_slices
from monai_dpmm_ad.transforms.acquire import AcquireScand


def make_scan(shape: tuple[int, ...] = (20, 24, 16), size: float = 2.0, modality: str = "") -> MetaTensor:
    """A scaled ball of random intensities, background 0."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), -1)
    values = np.random.default_rng(0).uniform(0.2, 0.47, shape).astype(np.float32)
    values[(grid**2).sum(-1) > 0.8] = 0
    scaled = torch.from_numpy(values)[None]
    image = MetaTensor(scaled / (3 * scaled[scaled > 0].median()), affine=np.diag([size] * 3 + [1.0]))
    image.meta |= {"filename_or_obj": "a.nii.gz", "modality": modality}
    return image


def draw(image: MetaTensor, number: int = 1, name: str = "a", seed: int = 0, intensity: str = "median") -> torch.Tensor:
    item = add_acquisitions([{"name": name, "image": image}], number)[-1]
    acquired = AcquireScand(intensity, seed)(item)
    assert set(acquired) == {"name", "image"}
    return acquired["image"].as_tensor()


def test_what_is_drawn_follows_from_seed_scan_and_number_alone() -> None:
    image = make_scan()
    first = draw(image)
    np.random.default_rng(5).random(3)
    torch.manual_seed(9)
    draw(image, number=2)
    assert torch.equal(draw(image), first)
    others = [draw(image, number=2), draw(image, name="b"), draw(image, seed=1)]
    assert not any(torch.equal(other, first) for other in others)


@pytest.mark.parametrize("shape", [(20, 24, 16), (30, 26)])
@pytest.mark.parametrize("intensity", ["median", "white_matter"])
def test_foreground_and_level_stay(shape: tuple[int, ...], intensity: str) -> None:
    image = make_scan(shape)
    for number in (1, 2, 3):
        acquired = draw(image, number, intensity=intensity)
        assert torch.equal(acquired > 0, image.as_tensor() > 0)
        assert float(acquired.max()) <= 1
        inside = acquired[acquired > 0]
        assert float(inside.median()) == pytest.approx(1 / 3, abs=1e-3 if intensity == "median" else 0.2)
        assert not torch.equal(acquired, image.as_tensor())


def test_what_is_even_stays_even_up_to_the_rim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contrast and blur alone: air has no share in the means."""
    monkeypatch.setattr(acquire, "_FIELD", 0.0)
    monkeypatch.setattr(acquire, "_NOISE", 0.0)
    image = make_scan()
    image[image > 0] = 1 / 3
    image[0, 10, 12, 8] = 0.34  # an image must not be constant
    acquired = draw(image)
    assert float(acquired[acquired > 0].min()) > 0.33
    assert float(acquired.max()) < 0.341


def test_blur_is_in_millimetres_and_widest_across_axial_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_FIELD", 0.0), ("_NOISE", 0.0), ("_GAMMA", (1.0, 1.0))):
        monkeypatch.setattr(acquire, name, value)
    moved = []
    for size in (1.0, 200.0):
        image = make_scan(size=size)
        moved.append([float((draw(image, number) - image.as_tensor()).abs().max()) for number in range(1, 6)])
    assert min(moved[0]) > 0.01
    assert max(moved[1]) < 1e-4
    monkeypatch.setattr(acquire, "_BLUR", 0.0)
    for axis, expected in ((1, False), (3, True)):  # what varies along rows, and across slices
        image = make_scan(size=1.0)
        steps = torch.linspace(0.3, 0.36, image.shape[axis])[torch.arange(image.shape[axis]) * 7 % image.shape[axis]]
        image[image > 0] = steps.view([-1 if n == axis else 1 for n in range(4)]).expand(image.shape)[image > 0]
        image = MetaTensor(image * (1 / 3 / image[image > 0].median()), meta=image.meta)
        changes = [float((draw(image, number) - image.as_tensor()).abs().max()) for number in range(1, 6)]
        assert (max(changes) > 1e-3) == expected


def test_ct_is_refused_and_what_is_no_copy_is_left() -> None:
    with pytest.raises(ScanError, match=r"a\.nii\.gz: is CT, of which no other acquisition can be drawn"):
        draw(make_scan(modality="CT"))
    image = make_scan(modality="CT")
    assert AcquireScand()({"name": "a", "image": image})["image"] is image


def test_copies_are_cut_into_the_slices_of_their_scan(cohort: Path) -> None:
    items = add_acquisitions([{"name": "a", "image": str(cohort.parent / "imagesTr" / "train_000.nii.gz")}], 1)
    own, copy = ScanDataset(items, preprocess_slices(thumbnails=True))
    assert len(own) == len(copy)
    for one, two in zip(own, copy, strict=True):
        assert torch.equal(one["image"] > 0, two["image"] > 0)
        assert {key: one[key] for key in ("position", "aspect", "slice_index")} == {
            key: two[key] for key in ("position", "aspect", "slice_index")
        }
    assert not np.array_equal(own[0]["thumbnail"].image, copy[0]["thumbnail"].image)
    assert np.array_equal(own[0]["thumbnail"].affine, copy[0]["thumbnail"].affine)


def test_a_scan_with_the_name_of_a_copy_is_refused() -> None:
    items = [{"name": name, "image": f"{name}.nii"} for name in ("a", "a~2")]
    assert [item["name"] for item in add_acquisitions(items, 1)] == ["a", "a~2", "a~1", "a~2~1"]
    with pytest.raises(ValueError, match=r"`images` must not have a scan named a~2, which is that of a copy of a"):
        add_acquisitions(items, 2)
