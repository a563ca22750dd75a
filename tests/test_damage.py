# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Damage is noticed: a flipped bit in a model, in the weights that ship, in an embedding, in an output, in a record."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_dpmm_ad.bundle import load_workflow, read_state
from monai_dpmm_ad.clustering.normals import STORE
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.embedding import EmbeddingStore, compact_path, create_embedder
from monai_dpmm_ad.engines.resume import FOLDER
from monai_dpmm_ad.errors import CheckpointError, EmbeddingStoreError
from monai_dpmm_ad.pretraining.checkpoints import load_checkpoint, save_checkpoint


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def find(path: Path, content: bytes) -> int:
    """Where the bits of something begin in a file."""
    place = path.read_bytes().find(content)
    assert place >= 0
    return 8 * place


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_flipped_bit_in_a_model_is_refused_or_changes_nothing(copy: Path) -> None:
    path = copy / "models" / "model.pt"
    good, expected = path.read_bytes(), read_state(path)
    assert expected is not None
    generator, refused = random.Random(0), 0
    for _ in range(300):
        flip(path, generator.randrange(8 * len(good)))
        try:
            state = read_state(path)
        except CheckpointError:
            refused += 1
        else:  # in what the archive keeps beside its content: names repeated, times, padding
            assert state is not None
            assert all(torch.equal(state[name], expected[name]) for name in expected)
        path.write_bytes(good)
    assert refused > 200


def test_a_model_of_which_the_checksums_fit_but_not_the_numbers_is_refused(copy: Path) -> None:
    path = copy / "models" / "model.pt"
    state = read_state(path)
    assert state is not None
    state["calibration.knots"][-1] *= 2
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"model\.pt: is damaged"):
        read_state(path)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("way", ["infer", "evaluate", "cluster", "export", "update", "workflow", "monai"])
def test_every_way_in_refuses_a_damaged_model(
    copy: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    path = copy / "models" / "model.pt"
    state = read_state(path)
    assert state is not None
    flip(path, find(path, state["calibration.knots"].numpy().tobytes()) + 30)
    if way in ("workflow", "monai"):
        with pytest.raises(CheckpointError if way == "workflow" else RuntimeError) as caught:  # noqa: PT012
            if way == "workflow":
                load_workflow(copy, ["inference"], "inference")
            else:
                from monai.bundle import run

                options = {"bundle_root": str(copy), "dataset_dir": str(cohort), "output_dir": str(tmp_path / "out")}
                run(config_file=str(copy / "configs" / "inference.json"), **options)
        chain: BaseException | None = caught.value
        while chain is not None and not isinstance(chain, CheckpointError):
            chain = chain.__cause__
        assert "is damaged" in str(chain)
        return
    scans = {"evaluate": ["--data", str(cohort)], "export": []}.get(way, ["--images", str(cohort)])
    source = ["--update", str(copy)] if way == "update" else ["--bundle", str(copy)]
    assert main(["fit" if way == "update" else way, *source, *scans, "--out", str(tmp_path / "out")]) == 1
    assert f"{path}: is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_damaged_weights_of_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = Path(shutil.copytree(compact_path(), tmp_path / "compact"))
    monkeypatch.setattr("monai_dpmm_ad.embedding.compact.compact_path", lambda name: folder)
    assert create_embedder().embed_dim > 0
    flip(folder / name, 8 * (folder / name).stat().st_size // 2)
    with pytest.raises(CheckpointError, match=f"{name}: is missing or not as it was shipped"):
        create_embedder()


READERS: dict[str, Callable[[EmbeddingStore], object]] = {
    "batches": lambda store: list(store.batches(64)),
    "sample": lambda store: store.sample(store.num_rows),
    "rows": lambda store: [store.source_rows(name) for name in store.sources],
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_embeddings_notices_a_flipped_bit(copy: Path, reader: str) -> None:
    store = copy / STORE
    READERS[reader](EmbeddingStore(store))
    shard = next(store.glob("shard-*"))
    flip(shard, 8 * (shard.stat().st_size - 9))
    with pytest.raises(EmbeddingStoreError, match="the shard is damaged"):
        READERS[reader](EmbeddingStore(store))


@pytest.mark.filterwarnings("default")
def test_groups_are_not_made_from_damaged_embeddings(
    copy: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next((copy / STORE).glob("shard-*"))
    flip(shard, 8 * (shard.stat().st_size - 9))
    command = ["cluster", "--bundle", str(copy), "--images", str(cohort), "--weights", "semi-supervised"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert f"{shard}: the shard is damaged" in capsys.readouterr().err


def test_a_damaged_checkpoint_of_a_training_is_refused(tmp_path: Path) -> None:
    keys = ("step", "recipe", "student", "teacher", "optimizer", "centre", "generators", "history")
    path = save_checkpoint(tmp_path, {**dict.fromkeys(keys), "step": 3, "student": {"weight": torch.ones(100)}})
    assert load_checkpoint(path)["step"] == 3
    flip(path, find(path, torch.ones(100).numpy().tobytes()) + 30)
    with pytest.raises(CheckpointError, match="is no readable checkpoint"):
        load_checkpoint(path)


def test_a_scan_is_done_again_whose_output_or_record_is_damaged(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    scans = [str(path) for path in sorted((cohort.parent / "imagesTs").glob("*.nii.gz"))[:3]]
    out = tmp_path / "out"
    command = ["infer", "--bundle", str(bundle), "--images", *scans, "--no-report", "--out", str(out)]
    assert main(command) == 0
    names = sorted(path.stem for path in (out / FOLDER).glob("*.json"))
    tables = {name: (out / name).read_bytes() for name in ("scores.csv", "regions.csv", "drift.json")}
    times = {name: (out / f"{name}_anomaly.nii.gz").stat().st_mtime_ns for name in names}
    image = nib.load(out / f"{names[0]}_anomaly.nii.gz")
    # Another map of the same size in bytes; what is compressed is rarely so long as before, so it is padded.
    size = (out / f"{names[0]}_anomaly.nii.gz").stat().st_size
    (out / f"{names[0]}_anomaly.nii.gz").write_bytes(bytes(size))
    record = out / FOLDER / f"{names[1]}.json"
    content = json.loads(record.read_text())
    content["row"]["flagged"] = 58.6
    record.write_text(json.dumps(content))
    assert main([*command, "--overwrite"]) == 0
    after = {name: (out / f"{name}_anomaly.nii.gz").stat().st_mtime_ns for name in names}
    assert [after[name] != times[name] for name in names] == [True, True, False]
    assert np.array_equal(image.get_fdata(), nib.load(out / f"{names[0]}_anomaly.nii.gz").get_fdata())
    assert {name: (out / name).read_bytes() for name in tables} == tables
