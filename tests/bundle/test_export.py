# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAST
from monai.bundle import ckpt_export
from torch import Tensor, nn

from monai_dpmm_ad.bundle import create_bundle, load_workflow
from monai_dpmm_ad.bundle.export import FORMATS, export_network
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.detectors.dpmm import SCORES, DPMMDetector
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.network import AnomalyNet

# Torch's exporters and transformers warn of their own parts, in ways that change with every release.
pytestmark = pytest.mark.filterwarnings("default")

SHAPE = (70, 90)  # neither square nor whole patches, and larger than what the embedder sees
#: what a bundle may be, each once, with slices that are square, high, wide, smaller and larger than the embedder's 56
BUNDLES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "location": ({"location_weight": 0.3, "covariance": "spherical", "score": "mahalanobis"}, (64, 40)),
    "tail, 2.5D": (
        {
            **{"intensity_tail": "both", "normative": "off", "channels": 3, "covariance": "vmf", "score": "cosine"},
            "upsampling": "bilinear",
        },
        (40, 100),
    ),
    "shifts": ({"num_shifts": 2, "covariance": "full", "score": "euclidean", "upsampling": "nearest"}, (56, 56)),
    "memory_bank": ({"detector_name": "memory_bank", "detector_options": {"neighbours": 2}}, (33, 17)),
    "ogae": (
        {"detector_name": "ogae", "detector_options": {"latent_dim": 4}, "upsampling": "nearest"},
        (90, 70),
    ),
    "ogae, linear": (
        {
            **{"detector_name": "ogae", "detector_options": {"latent_dim": 4, "kernel": "linear"}},
            **{"location_weight": 0.2, "intensity_tail": "dark", "normative": "off", "upsampling": "bilinear"},
        },
        (30, 50),
    ),
}


def draw_slices(batch: int, shape: tuple[int, int] = SHAPE, channels: int = 1) -> Tensor:
    images = torch.rand(batch, channels, *shape, generator=torch.Generator().manual_seed(batch))
    images[..., : shape[1] // 4] = 0
    images[-1, :, shape[0] // 2 :] = 0
    return images


def assert_same_maps(found: Tensor, network: AnomalyNet, *inputs: Tensor) -> None:
    with torch.no_grad():
        expected = network(*inputs)
    assert found.shape == expected.shape
    middle = inputs[0].shape[1] // 2
    assert not found[inputs[0][:, middle : middle + 1] == 0].any()
    assert found.any()
    # The guided maps divide by small variances, which the order of the sums changes.
    tolerance = 2e-3 if network.upsampling == "guided" else 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.max()))


def read_network(bundle: Path) -> AnomalyNet:
    workflow = load_workflow(bundle, ["inference"], "inference", **{"embedder#autocast": False})
    return workflow.parser.get_parsed_content("network_def")


@pytest.fixture(scope="module")
def network(bundle: Path) -> AnomalyNet:
    return read_network(bundle)


def open_onnx(path: Path) -> Any:
    return pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_onnx(session: Any, *inputs: Tensor) -> Tensor:
    names = [node.name for node in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(["pred"], feed)[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUNDLES)
def test_both_graphs_of_every_kind_of_bundle_draw_its_maps(
    kind: str, cohort: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    settings, shape = BUNDLES[kind]
    fit([cohort], tmp_path / "bundle", embedder_name=str(tiny_vit), **{**FAST, **settings})
    network = read_network(tmp_path / "bundle")
    session = open_onnx(export_network(tmp_path / "bundle", tmp_path / "graph.onnx", "onnx", shape))
    script = torch.jit.load(str(export_network(tmp_path / "bundle", tmp_path / "graph.ts", "torchscript", shape)))
    names = ["image", "position"] if network.detector.location_weight else ["image"]
    assert [node.name for node in session.get_inputs()] == names
    for batch in (1, 2, 7, 80):  # 80 slices are more patches than a memory bank is asked at a time
        positions = torch.linspace(0.1, 0.9, batch)
        inputs = (draw_slices(batch, shape, settings.get("channels", 1)), positions)[: len(names)]
        assert_same_maps(run_onnx(session, *inputs), network, *inputs)
        with torch.no_grad():
            assert_same_maps(script(*inputs), network, *inputs)


@pytest.mark.slow
def test_onnx_draws_the_same_maps_in_batches_of_any_size(bundle: Path, network: AnomalyNet, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "graph.onnx"
    arguments = ["export", "--bundle", str(bundle), "--out", str(path), "--shape", *map(str, SHAPE)]
    assert main(arguments) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["graph.onnx"]  # weights inside, no leftovers
    session = open_onnx(path)
    for batch in (1, 2, 7):
        assert_same_maps(run_onnx(session, draw_slices(batch)), network, draw_slices(batch))
    with pytest.raises(Exception, match="Got: 64 Expected: 70"):  # a graph is of one size of slices, and says so
        run_onnx(session, draw_slices(2, (64, 90)))
    properties = session.get_modelmeta().custom_metadata_map
    # The thresholds are those of the map that was judged by place, which the graph does not draw.
    assert json.loads(properties["thresholds_by_false_positive_rate"]) == {}
    assert "Judging by place" in properties["outside_the_graph"]
    assert properties["backbone_sha256"] == network.embedder.digest()


def test_torchscript_draws_the_same_maps(bundle: Path, network: AnomalyNet, tmp_path: Path) -> None:
    path = export_network(bundle, tmp_path / "graph.ts", "torchscript", SHAPE)
    extra = {"metadata.json": ""}
    graph = torch.jit.load(path, _extra_files=extra)
    for batch in (1, 2, 7, 200):  # 200 slices are more patches than the mixture scores at a time
        assert_same_maps(graph(draw_slices(batch)), network, draw_slices(batch))
    with pytest.raises(RuntimeError, match="Expected size"):
        graph(draw_slices(2, (64, 90)))
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


@pytest.mark.parametrize("covariance", ["diagonal", "spherical", "rotated", "vmf", "full"])
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


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"detector_name": "himatch", "detector_options": {"num_support": 2, "num_clusters": 4}}, "himatch chooses"),
        ({"patch_mask": "pca"}, "patch_mask 'pca' decomposes"),
    ],
    ids=["himatch", "pca"],
)
def test_what_no_graph_can_follow_is_refused_with_the_reason(
    settings: dict[str, Any], reason: str, cohort: Path, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bundle, graph = tmp_path / "bundle", tmp_path / "graph"
    fit([cohort], bundle, embedder_name=str(tiny_vit), **{**FAST, **settings})
    for name in FORMATS:
        assert main(["export", "--bundle", str(bundle), "--out", str(graph), "--format", name]) == 1
        assert f"must be one that a graph can hold, but {reason}" in capsys.readouterr().err
    arguments = {"filepath": str(graph), "ckpt_file": str(bundle / "models" / "model.pt"), "net_id": "network_def"}
    arguments |= {"config_file": str(bundle / "configs" / "inference.json"), "use_trace": True}
    with pytest.raises(ValueError, match=reason):  # MONAI's own command draws no wrong graph either
        ckpt_export(**arguments, input_shape=[2, 1, 56, 56], bundle_root=str(bundle))
    assert not graph.exists()


@pytest.mark.parametrize(("name", "options", "meant"), [("a.ts", [], "torchscript"), ("a.ONNX", [FORMATS[1]], "onnx")])
def test_a_graph_is_what_its_name_says(
    name: str, options: list[str], meant: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "export",
        "--bundle",
        str(bundle),
        "--out",
        str(tmp_path / name),
        *(["--format", *options] if options else []),
    ]
    assert main(words) == 1
    assert f"`format` must be {meant} for a file named {name}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
