# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from monai_dpmm_ad import AnomalyNet, ScanDataset, create_detector, create_embedder, embed_dataset, preprocess_slices
from monai_dpmm_ad.data.datalist import resolve_datalist
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.errors import EmbeddingStoreError


def embed(items: list, store: Path) -> list[str]:
    embedder = create_embedder("pixels-8")
    network = AnomalyNet(embedder, create_detector("dpmm", 64), image_size=64, normative="off")
    return embed_dataset(ScanDataset(items, preprocess_slices()), network, store, preprocessing={}).sources


@pytest.fixture
def scans(tmp_path: Path) -> list:
    sizes = {"num_train": 2, "num_valid": 1, "num_test_healthy": 1, "num_test_abnormal": 1}
    listed = write_cohort(tmp_path / "scans", spacing=8, size="small", **sizes)
    return resolve_datalist(listed, section="training")


def test_another_scan_of_the_same_name_is_not_taken_for_the_embedded_one(scans: list, tmp_path: Path) -> None:
    first, second = scans
    assert embed([first], tmp_path / "store") == embed([first], tmp_path / "store") == [first["name"]]
    with pytest.raises(EmbeddingStoreError, match=f"another '{first['name']}'"):
        embed([{**first, "image": second["image"]}], tmp_path / "store")
    with pytest.raises(EmbeddingStoreError, match="Delete the folder"):
        embed([{**first, "label": second["image"]}], tmp_path / "store")


def test_a_store_that_was_deleted_is_made_of_what_is_there_now(scans: list, tmp_path: Path) -> None:
    first, second = scans
    embed([first], tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    assert embed([{**first, "image": second["image"]}], tmp_path / "store") == [first["name"]]
    with pytest.raises(EmbeddingStoreError, match="another"):
        embed([first], tmp_path / "store")


def test_a_store_keeps_what_a_later_run_does_not_name(scans: list, tmp_path: Path) -> None:
    first, second = scans
    embed([first], tmp_path / "store")
    embed([second], tmp_path / "store")
    with pytest.raises(EmbeddingStoreError, match="another"):
        embed([{**first, "image": second["image"]}], tmp_path / "store")


def test_a_scan_that_failed_is_embedded_when_it_was_mended(scans: list, tmp_path: Path) -> None:
    first, second = scans
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    assert embed([first, {**second, "image": str(broken)}], tmp_path / "store") == [first["name"]]
    assert embed(scans, tmp_path / "store") == [first["name"], second["name"]]
