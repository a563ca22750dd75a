# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from monai_dpmm_ad import (
    AnomalyNet,
    ScanDataset,
    create_bundle,
    create_detector,
    create_embedder,
    embed_dataset,
    load_workflow,
    preprocess_slices,
)
from monai_dpmm_ad.data.datalist import resolve_datalist
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.errors import EmbeddingStoreError


def embed(items: list, store: Path, **options: Any) -> list[str]:
    embedder = create_embedder("pixels-8")
    network = AnomalyNet(embedder, create_detector("dpmm", 64), image_size=64, normative="off")
    dataset = ScanDataset(items, options.pop("transform", preprocess_slices()))
    return embed_dataset(dataset, network, store, preprocessing={}, **options).sources


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


def test_another_step_is_not_taken_for_the_one_that_the_scans_went_through(scans: list, tmp_path: Path) -> None:
    names = embed(scans, tmp_path / "store", transform=preprocess_slices(seed=1))
    other = preprocess_slices("percentile", seed=1)
    with pytest.raises(EmbeddingStoreError, match=f"another '{names[0]}', .* or other steps of preprocessing"):
        embed(scans, tmp_path / "store", transform=other)
    looking_on = preprocess_slices(thumbnails=True, seed=1)
    assert embed(scans, tmp_path / "store", transform=looking_on) == names
    assert embed(scans, tmp_path / "store", transform=other, steps=looking_on) == names


@pytest.mark.filterwarnings("ignore:there is one subject only")
@pytest.mark.parametrize("held_out", [True, False], ids=["held out", "nothing held out"])
def test_a_fitted_folder_tells_a_step_of_its_config_that_is_changed(
    scans: list, tmp_path: Path, held_out: bool
) -> None:
    few = {"embedder_name": "pixels-8", "image_size": 64, "num_components": 4, "max_epochs": 1, "normative": "off"}
    paths = [scan["image"] for scan in scans]
    held = {"validation_dir": paths[1:]} if held_out else {}  # of a single scan nothing can be held out
    bundle = create_bundle(tmp_path / "bundle")

    def fit(**changes: Any) -> None:
        options = {"dataset_dir": paths[:1], **held, **few}
        with load_workflow(bundle, ["train"], "train", **options, **changes) as workflow:
            workflow.run()

    fit()
    fit()
    for part in ("train", "validate")[: 1 + held_out]:
        with pytest.raises(EmbeddingStoreError, match=r"other steps of preprocessing\. Delete the folder"):
            fit(**{f"{part}#preprocessing#intensity": "percentile"})


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
