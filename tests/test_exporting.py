# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monai_dpmm_ad.bundle import create_bundle, load_workflow
from monai_dpmm_ad.cli import main
from monai_dpmm_ad.detectors.dpmm import SCORES, DPMMDetector
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.exporting import export_network
from monai_dpmm_ad.network import AnomalyNet

# Torch's exporters and transformers warn of their own parts, in ways that change with every release.
pytestmark = pytest.mark.filterwarnings("default")

SHAPE = (70, 90)  # neither square nor whole patches, and larger than what the embedder sees


def draw_slices(batch: int, seed: int = 0) -> Tensor:
    images = torch.rand(batch, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))
    images[..., :20] = 0
    images[-1, :, 30:] = 0
    return images


def assert_same_maps(found: Tensor, network: AnomalyNet, images: Tensor) -> None:
    with torch.no_grad():
        expected = network(images)
    assert found.shape == expected.shape
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.max()))


@pytest.fixture(scope="module")
def network(bundle: Path) -> AnomalyNet:
    workflow = load_workflow(bundle, ["inference"], "inference", **{"embedder#autocast": False})
    return workflow.parser.get_parsed_content("network_def")


def open_onnx(path: Path) -> Any:
    return pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_onnx_draws_the_same_maps_in_batches_of_any_size(bundle: Path, network: AnomalyNet, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "graph.onnx"
    arguments = ["export", "--bundle", str(bundle), "--out", str(path), "--shape", *map(str, SHAPE)]
    assert main(arguments) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["graph.onnx"]  # weights inside, no leftovers
    session = open_onnx(path)
    for batch in (1, 2, 7):
        images = draw_slices(batch, seed=batch)
        (maps,) = session.run(["pred"], {"image": images.numpy()})
        assert_same_maps(torch.from_numpy(maps), network, images)
    properties = session.get_modelmeta().custom_metadata_map
    thresholds = json.loads(properties["thresholds_by_false_positive_rate"])
    assert thresholds["0.01"] == pytest.approx(float(network.calibration.threshold(0.01)))
    assert properties["backbone_sha256"] == network.embedder.digest()


def test_torchscript_draws_the_same_maps(bundle: Path, network: AnomalyNet, tmp_path: Path) -> None:
    path = export_network(bundle, tmp_path / "graph.ts", "torchscript", SHAPE)
    extra = {"metadata.json": ""}
    graph = torch.jit.load(path, _extra_files=extra)
    for batch in (1, 2, 7):
        images = draw_slices(batch, seed=batch)
        assert_same_maps(graph(images), network, images)
    assert json.loads(extra["metadata.json"])["input"].startswith("image (B, 1, 70, 90)")


class AllScores(nn.Module):
    """Every score of one mixture, so that one graph tests them all."""

    def __init__(self, detector: DPMMDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        found = []
        for score in SCORES:
            self.detector.score_name = score
            found.append(self.detector.score(features))
        return tuple(found)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical", "vmf", "full"])
def test_every_score_has_a_graph(covariance: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    generator = torch.Generator().manual_seed(0)
    features = nn.functional.normalize(torch.randn(300, 12, generator=generator), dim=1)
    detector = DPMMDetector(12, num_components=6, covariance=covariance)
    detector.mixture.fit([features])
    scores = AllScores(detector).eval()
    with torch.no_grad():
        expected = scores(features)
        rows = torch.export.Dim("rows", min=1, max=4096)
        program = torch.onnx.export(scores, (features,), dynamo=True, dynamic_shapes=({0: rows},), verbose=False)
    session = pytest.importorskip("onnxruntime").InferenceSession(program.model_proto.SerializeToString())
    for count in (1, 300):
        found = session.run(None, {session.get_inputs()[0].name: features[:count].numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs, ours[:count].numpy(), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'onnx'"):
        export_network(bundle, tmp_path / "a", "onxx")
    with pytest.raises(ValueError, match="height and width"):
        export_network(bundle, tmp_path / "a", "torchscript", (0, 5))
    with pytest.raises(CheckpointError, match="no fitted model"):
        export_network(create_bundle(tmp_path / "new"), tmp_path / "a", "torchscript")
    assert not (tmp_path / "a").exists()
