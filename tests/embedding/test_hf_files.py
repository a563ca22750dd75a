# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Backbones on disk and on the hub: what is read of them, and how bad ones are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny_vit import MEAN, STD, write_tiny_vit
from safetensors.torch import load_file, save_file

from monai_dpmm_ad.embedding import HFViTEmbedder, fingerprint_differences
from monai_dpmm_ad.embedding.hf_files import locate_backbone, read_normalization
from monai_dpmm_ad.errors import CheckpointError

Backbone = Callable[[str], Path]


@pytest.fixture
def folder(backbone: Backbone, tmp_path: Path) -> Path:
    """A backbone that the test may damage."""
    return Path(shutil.copytree(backbone("dinov2"), tmp_path / "backbone"))


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def test_same_files_elsewhere_are_the_same_backbone(backbone: Backbone, folder: Path) -> None:
    here, there = HFViTEmbedder(backbone("dinov2")), HFViTEmbedder(folder)
    assert here.fingerprint()["name"] != there.fingerprint()["name"]
    assert fingerprint_differences(here.fingerprint(), there.fingerprint()) == []
    assert here.digest() == there.digest()


def test_whatever_changes_the_embeddings_changes_the_fingerprint(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    first = HFViTEmbedder(backbone("dinov2"))
    other = HFViTEmbedder(write_tiny_vit(tmp_path / "other", seed=1))
    assert fingerprint_differences(first.fingerprint(), other.fingerprint()) == ["weights_sha256"]
    stages = HFViTEmbedder(backbone("dinov2"), stages=[1])
    assert fingerprint_differences(first.fingerprint(), stages.fingerprint()) == ["stages"]
    edit(folder / "preprocessor_config.json", image_std=[0.3, 0.3, 0.3])
    assert fingerprint_differences(first.fingerprint(), HFViTEmbedder(folder).fingerprint()) == ["image_std"]
    edit(folder / "config.json", layer_norm_eps=1e-3)
    assert "config_sha256" in fingerprint_differences(first.fingerprint(), HFViTEmbedder(folder).fingerprint())


def test_a_newer_library_does_not_change_the_fingerprint(backbone: Backbone, folder: Path) -> None:
    edit(folder / "config.json", transformers_version="99.0", dtype="float16")
    assert HFViTEmbedder(folder).digest() == HFViTEmbedder(backbone("dinov2")).digest()


def test_half_precision_weights_are_loaded_as_float32(folder: Path) -> None:
    exact = HFViTEmbedder(folder, autocast=False)
    path = folder / "model.safetensors"
    weights = {key: value.half() for key, value in load_file(path).items()}
    path.unlink()  # older releases of transformers keep the file mapped: written over, it would crash the first model
    save_file(weights, path, metadata={"format": "pt"})
    edit(folder / "config.json", dtype="float16")
    half = HFViTEmbedder(folder, autocast=False)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    images = torch.rand(1, 1, 28, 28)
    torch.testing.assert_close(half.embed(images).patches, exact.embed(images).patches, atol=2e-2, rtol=0)


def test_sharded_weights_are_read_and_hashed(backbone: Backbone, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys, files = sorted(weights), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for part, file in enumerate(files):
        save_file({key: weights[key] for key in keys[part::2]}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: files[i % 2] for i, key in enumerate(keys)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    whole, sharded = HFViTEmbedder(backbone("dinov2")), HFViTEmbedder(folder)
    images = torch.rand(1, 1, 28, 28)
    assert torch.equal(whole.embed(images).patches, sharded.embed(images).patches)
    assert whole.digest() != sharded.digest()
    (folder / files[1]).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors, named by .* is missing"):
        HFViTEmbedder(folder)
    index["weight_map"]["x"] = "../model.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"\.\./model\.safetensors, named by"):
        HFViTEmbedder(folder)


def test_normalisation_is_read(folder: Path) -> None:
    assert read_normalization(folder, 3).mean == pytest.approx(MEAN)
    assert read_normalization(folder, 3).std == pytest.approx(STD)
    edit(folder / "preprocessor_config.json", do_normalize=False)
    assert read_normalization(folder, 3).mean == (0, 0, 0)
    assert read_normalization(folder, 3).std == (1, 1, 1)
    # x·255/127.5 in [0, 2], so (2x − mean)/std
    edit(folder / "preprocessor_config.json", do_normalize=True, rescale_factor=1 / 127.5)
    assert read_normalization(folder, 3).mean == pytest.approx([value / 2 for value in MEAN])
    assert read_normalization(folder, 3).std == pytest.approx([value / 2 for value in STD])
    assert read_normalization(folder, 1).mean == pytest.approx([sum(MEAN) / 6])
    (folder / "preprocessor_config.json").unlink()
    assert read_normalization(folder, 3).mean == (0.485, 0.456, 0.406)
    nested = {"image_processor": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}}
    (folder / "processor_config.json").write_text(json.dumps(nested), encoding="utf-8")
    assert read_normalization(folder, 3).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_std": [0.0, 0.2, 0.2]},
        {"image_mean": "grey"},
        {"image_mean": [0.1, 0.2]},
        {"rescale_factor": -1},
        {"rescale_factor": None},
        {"image_std": [float("nan")] * 3},
    ],
)
def test_normalisation_that_cannot_be_used_is_refused(folder: Path, changes: dict[str, object]) -> None:
    edit(folder / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: the input normalisation cannot be used"):
        HFViTEmbedder(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        HFViTEmbedder(tmp_path / "nowhere")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing; other formats are not read"):
        HFViTEmbedder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"backbone: config\.json is missing"):
        HFViTEmbedder(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.99])
def test_truncated_weights_are_refused(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    with pytest.raises(CheckpointError, match="backbone: the backbone cannot be loaded"):
        HFViTEmbedder(folder)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    bad = {**weights, "layernorm.weight": weights["layernorm.weight"] * float("nan")}
    save_file(bad, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="the embeddings are not finite"):
        HFViTEmbedder(folder)
    save_file({k: v for k, v in weights.items() if "layer.2." not in k}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights are missing, the first is encoder\.layer\.2"):
        HFViTEmbedder(folder)
    save_file({**weights, "layernorm.weight": torch.ones(31)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        HFViTEmbedder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '"config"', "\x00", '{"model_type": "dinov2"', "[" * 100_000])
def test_configuration_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="backbone"):
        HFViTEmbedder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "dinov3_convnext"}, "backbone"),
        ({"model_type": "no-such-model"}, "cannot be loaded"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}},
            "cannot be loaded",
        ),
        ({"patch_size": 0}, "backbone"),
        ({"patch_size": [14, 7]}, "backbone"),
        ({"hidden_size": 31}, "backbone"),
        ({"num_hidden_layers": 9}, "weights are missing"),
    ],
)
def test_unknown_architectures_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    (folder / "evil.py").write_text("raise SystemExit('code of a model folder was run')", encoding="utf-8")
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        HFViTEmbedder(folder)


def test_other_models_are_refused(tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.BertModel(transformers.BertConfig(vocab_size=10, **sizes)).save_pretrained(tmp_path / "text")
    with pytest.raises(CheckpointError, match="'bert' is not a vision transformer"):
        HFViTEmbedder(tmp_path / "text")
    # Masks a random share of the patches, so that its tokens are not the grid's.
    masked = transformers.ViTMAEModel(transformers.ViTMAEConfig(image_size=56, patch_size=14, **sizes))
    masked.save_pretrained(tmp_path / "masked")
    with pytest.raises(CheckpointError, match="ViTMAEModel is not supported"):
        HFViTEmbedder(tmp_path / "masked")


def test_an_unreachable_id_says_how_to_use_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"'nobody/no-model' cannot be loaded.*--embedder /PATH/TO/FOLDER"):
        HFViTEmbedder("nobody/no-model")


@pytest.mark.parametrize("error", [ConnectionError("refused"), TimeoutError(), OSError("name or service not known")])
def test_errors_of_the_network_become_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        CheckpointError, match=r"config\.json, model\.safetensors and preprocessor_config\.json"
    ) as caught:
        HFViTEmbedder("facebook/dinov2-small", revision="main")
    assert "\n" not in str(caught.value)


def test_a_downloaded_id_records_its_commit(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked: dict[str, object] = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(shutil.copytree(backbone("vit"), tmp_path / "snapshots" / commit))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    fingerprint = HFViTEmbedder("someone/vit", revision="main").fingerprint()
    assert (fingerprint["name"], fingerprint["revision"]) == ("someone/vit", commit)
    assert (asked["name"], asked["revision"]) == ("someone/vit", "main")
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["allow_patterns"])  # type: ignore[attr-defined]


def test_a_local_folder_has_no_revision(folder: Path) -> None:
    with pytest.raises(ValueError, match="`revision` must be None for a local folder"):
        locate_backbone(str(folder), "main")
