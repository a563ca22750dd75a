# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_dpmm_ad.data import split_scans
from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.detectors import DPMMDetector
from monai_dpmm_ad.embedding import EmbeddingStore, create_embedder
from monai_dpmm_ad.embedding.store.loader import StoreLoader
from monai_dpmm_ad.engines import embed_dataset
from monai_dpmm_ad.errors import EmbeddingStoreError, ScanError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.transforms import preprocess_slices


@pytest.fixture
def network(tiny_vit: Path) -> AnomalyNet:
    embedder = create_embedder(str(tiny_vit))
    return AnomalyNet(embedder, DPMMDetector(embedder.embed_dim, num_components=4), image_size=56)


@pytest.fixture
def scan(cohort: Path) -> str:
    return str(cohort.parent / "imagesTr" / "train_000.nii.gz")


def embed(network: AnomalyNet, path: Path, items: list[dict[str, Any]], exclude: str = "patches", **options: Any):
    dataset = ScanDataset(items, preprocess_slices(exclude=exclude))
    return embed_dataset(dataset, network, path, {"exclude": exclude}, **options)


def mark(tmp_path: Path, scan: str, corner: bool = False) -> str:
    image = nib.load(scan)
    label = np.zeros(image.shape, np.uint8)
    inside = np.argwhere(np.asarray(image.dataobj) > 0)
    place = tuple(inside[len(inside) // 2])
    label[place if not corner else (0, 0, 0)] = 254
    nib.save(nib.Nifti1Image(label, image.affine), tmp_path / "label.nii.gz")
    return str(tmp_path / "label.nii.gz")


def test_patches_under_a_label_are_left_out(network: AnomalyNet, scan: str, tmp_path: Path) -> None:
    label = mark(tmp_path, scan)
    plain = embed(network, tmp_path / "plain", [{"image": scan, "name": "a"}])
    labelled = [{"image": scan, "label": label, "name": "a"}]
    patches = embed(network, tmp_path / "patches", labelled)
    slices = embed(network, tmp_path / "slices", labelled, exclude="slices")
    ignored = embed(network, tmp_path / "none", labelled, exclude="none")
    assert plain.num_rows - 4 <= patches.num_rows < plain.num_rows  # one voxel touches at most four patches
    assert slices.num_rows < patches.num_rows
    assert ignored.num_rows == plain.num_rows


def test_a_label_in_the_background_changes_nothing(network: AnomalyNet, scan: str, tmp_path: Path) -> None:
    plain = embed(network, tmp_path / "plain", [{"image": scan, "name": "a"}])
    label = mark(tmp_path, scan, corner=True)
    labelled = embed(network, tmp_path / "labelled", [{"image": scan, "label": label, "name": "a"}])
    assert labelled.num_rows == plain.num_rows


def test_batch_size_does_not_change_the_store(network: AnomalyNet, scan: str, tmp_path: Path) -> None:
    item = [{"image": scan, "name": "a"}]
    one, eight = (embed(network, tmp_path / str(size), item, batch_size=size) for size in (1, 8))
    torch.testing.assert_close(one.source_rows("a")["patches"], eight.source_rows("a")["patches"], atol=0.05, rtol=0.05)
    assert torch.equal(one.source_rows("a")["location"], eight.source_rows("a")["location"])


def test_bad_scans_are_collected(network: AnomalyNet, scan: str, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("hello")
    items = [{"image": str(tmp_path / "bad.nii.gz"), "name": "bad"}, {"image": scan, "name": "good"}]
    dataset = ScanDataset(items, preprocess_slices())
    store = embed_dataset(dataset, network, tmp_path / "store", {})
    assert store.sources == ["good"]
    assert [failure.name for failure in dataset.failures] == ["bad"]
    with pytest.raises(EmbeddingStoreError, match=r"None of the 1 scans .*bad\.nii\.gz"):
        embed(network, tmp_path / "empty", items[:1])


def test_other_preprocessing_is_refused(network: AnomalyNet, scan: str, tmp_path: Path) -> None:
    item = [{"image": scan, "name": "a"}]
    embed(network, tmp_path / "store", item)
    with pytest.raises(EmbeddingStoreError, match="exclude"):
        embed(network, tmp_path / "store", item, exclude="none")


def test_the_loader_reads_every_patch_in_another_order_each_epoch(
    network: AnomalyNet, scan: str, tmp_path: Path
) -> None:
    opened = []

    def open_store() -> EmbeddingStore:
        opened.append(True)
        return embed(network, tmp_path / "store", [{"image": scan, "name": "a"}])

    loader = StoreLoader(open_store, batch_size=100)
    assert not opened
    with pytest.raises(TypeError, match="once the store is open"):
        len(loader)
    epochs = [torch.cat([batch["location"] for batch in loader]) for _ in range(2)]
    assert len(opened) == 1
    assert len(loader) == -(-loader.num_data // 100)
    assert not torch.equal(*epochs)
    assert torch.equal(*(torch.tensor(sorted(map(tuple, epoch.tolist()))) for epoch in epochs))


def test_the_loader_gives_one_scan_after_the_other(network: AnomalyNet, scan: str, tmp_path: Path) -> None:
    items = [{"image": scan, "name": name} for name in ("a", "b")]
    loader = StoreLoader(lambda: embed(network, tmp_path / "store", items), batch_size=100, unit="scans")
    store = loader.open()
    assert len(loader) == 2
    for name, batch in zip("ab", loader, strict=True):
        assert all(torch.equal(batch[key], rows) for key, rows in store.source_rows(name).items())
        assert batch["slice_index"].max() < len(batch["cls"])
    with pytest.raises(ValueError, match="`unit` must be one of"):
        StoreLoader(loader.open, batch_size=1, unit="scan")


def test_rotations_add_turned_copies(network: AnomalyNet, scan: str, tmp_path: Path) -> None:
    item = [{"image": scan, "name": "a"}]
    plain = embed(network, tmp_path / "plain", item).source_rows("a")
    turned = embed(network, tmp_path / "turned", item, rotations=[0, 10]).source_rows("a")
    count = len(plain["patches"])
    assert torch.equal(turned["patches"][:count], plain["patches"])
    assert len(turned["cls"]) == 2 * len(plain["cls"])
    assert len(turned["patches"]) == pytest.approx(2 * count, rel=0.2)
    with pytest.raises(EmbeddingStoreError, match="rotations"):
        embed(network, tmp_path / "turned", item)


def test_sections_are_held_out_as_the_data_say(cohort: Path) -> None:
    split = split_scans([str(cohort)], None, 0.2, 0)
    assert [len(split.train), len(split.held_out), split.is_held_out] == [3, 2, True]
    assert not {item["image"] for item in split.train} & {item["image"] for item in split.held_out}


def test_plain_folders_are_split_by_subject(cohort: Path) -> None:
    split = split_scans([str(cohort.parent / "imagesTr")], None, 0.4, 0)
    assert [len(split.train), len(split.held_out), split.is_held_out] == [2, 1, True]


def test_abnormal_scans_are_never_fitted(cohort: Path, tmp_path: Path) -> None:
    entries = json.loads(cohort.read_text())
    for item in entries["training"]:
        item["image"] = str(cohort.parent / item["image"])
    entries["training"][0]["abnormal"] = 1
    (tmp_path / "list.json").write_text(json.dumps({"training": entries["training"]}))
    split = split_scans([str(tmp_path / "list.json")], None, 0.5, 0)
    assert len(split.train) + len(split.held_out) == 2


def test_scans_of_which_none_can_be_embedded_are_named_with_a_way_out(network: AnomalyNet, tmp_path: Path) -> None:
    items = []
    for number in range(5):
        items.append({"image": str(tmp_path / f"{number}.nii.gz"), "name": str(number)})
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), items[-1]["image"])
    with pytest.raises(EmbeddingStoreError, match="None of the 5 scans could be embedded") as caught:
        embed(network, tmp_path / "store", items)
    assert str(caught.value).count("is constant: every voxel is 0; ") == 3
    assert str(caught.value).endswith("…. Take them out; if these were to be held out, name others with --held-out.")


def test_held_out_scans_that_are_not_there_are_an_error(cohort: Path) -> None:
    with pytest.raises(ScanError, match="/no/such/folder"):
        split_scans([str(cohort)], ["/no/such/folder"], 0.2, 0)
    scans = [str(path) for path in sorted((cohort.parent / "imagesTr").glob("*.nii.gz"))]
    with pytest.raises(ValueError, match=r"`held_out` must name other scans than `images`, got train_000 in both"):
        split_scans(scans, scans[:1], 0.2, 0)
    with pytest.warns(UserWarning, match="1 held-out scans are fitted, so not held out: train_001"):
        split = split_scans(scans[:2], scans[1:], 0.2, 0)
    assert [item["image"] for item in split.held_out] == scans[2:]


def test_a_large_scan_is_alone_in_memory(
    network: AnomalyNet, scan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_dpmm_ad.engines.embed.ALONE", 0)
    chain, slices, alone = preprocess_slices(), list[weakref.ref[torch.Tensor]](), list[bool]()

    def load(item: dict[str, Any]) -> list[dict[str, Any]]:
        alone.append(not any(one() is not None for one in slices))
        found = chain(item)
        slices.extend(weakref.ref(one["image"]) for one in found)
        return found

    dataset = ScanDataset([{"image": scan, "name": name} for name in "abc"], load)
    store = embed_dataset(dataset, network, tmp_path / "store", {})
    assert len(store.sources) == 3
    assert alone == [True, True, True]
