# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A fitted network as one graph, embedder and scoring together, that runs without this package."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_dpmm_ad.bundle.sequences import refuse_sequences
from monai_dpmm_ad.bundle.workflow import load_workflow
from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import replace_file
from monai_dpmm_ad.utils.leftovers import without_leftovers
from monai_dpmm_ad.utils.quiet import quiet

__all__ = ["FORMATS", "describe_graph", "export_network"]

FORMATS = ("onnx", "torchscript")
#: What a file of such a name is taken for by whoever gets it.
_SUFFIXES = {".onnx": "onnx", ".ts": "torchscript", ".pt": "torchscript", ".torchscript": "torchscript"}
#: False-positive rates whose thresholds go with the graph: a map without one says nothing.
RATES = (0.1, 0.05, 0.01)
#: What a graph of slices cannot do.
OUTSIDE = (
    "Judging by place (registration, atlases of score and intensity), thresholds, p-values and regions: they belong to "
    "whole volumes. The graph gives the detector's map alone, to which the bundle's thresholds do not apply. "
    "Before it, preprocess_scan(network=...) matches a scan's intensities to the fitted ones and takes a skull away "
    "where brains were fitted."
)
_OPSET = 18  # the first with antialiased resizing
_MAX_BATCH = 4096
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def export_network(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    graph_format: str = "onnx",
    shape: Sequence[int] | None = None,
    trust_bundle: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a fitted bundle's network as a graph for ONNX Runtime or TorchScript.

    The graph takes ``image (B, C, H, W)``, preprocessed as by :func:`~monai_dpmm_ad.transforms.preprocess_scan` with
    the bundle's network (without it a skull stays where brains were fitted), and gives ``pred (B, 1, H, W)`` in
    float32. B is free; H and W are fixed, since the patch grid follows from them: export once for each size that is
    needed. A bundle that was fitted with a location weight has ``position (B,)`` as second input.
    :func:`describe_graph` goes with it, as metadata properties of an ONNX file and as the extra file
    ``metadata.json`` of a TorchScript one.

    Args:
        bundle: folder of a fitted bundle.
        out: the file.
        graph_format: ``onnx`` or ``torchscript``.
        shape: H and W of the slices; None is a square of the bundle's ``image_size``.
        trust_bundle: run the bundle's own configs, which are code, see `load_workflow`.
        overwrite: replace the file where there is one.

    Returns:
        Path of the file.

    Raises:
        ValueError: an unknown format, or another than the file's name says, a shape that is none, or a network that no
            graph can hold (detector ``himatch``, patch mask ``pca``, several sequences).
        ImportError: ONNX without the ``onnx`` extra.
        CheckpointError: a folder that is no fitted bundle.
        FileExistsError: where ``out`` is there and ``overwrite`` is not given.
    """
    if graph_format not in FORMATS:
        raise unknown_option("format", graph_format, FORMATS)
    meant = _SUFFIXES.get(Path(out).suffix.lower(), graph_format)
    if meant != graph_format:
        raise ValueError(
            f"`format` must be {meant} for a file named {Path(out).name}, got {graph_format}. Give --format {meant}, "
            "or name another --out."
        )
    if not overwrite and os.path.lexists(out):
        raise FileExistsError(errno.EEXIST, "is there already; name another --out, or give --overwrite", str(out))
    refuse_sequences(bundle, "a graph")
    # In float32, since another machine may lack bfloat16.
    overrides: dict[str, Any] = {"embedder#autocast": False, "trust_bundle": trust_bundle}
    with load_workflow(bundle, ["inference"], "inference", **overrides) as workflow:
        network: AnomalyNet = workflow.network_def
    network.check_graph()
    height, width = (network.image_size, network.image_size) if shape is None else _check_shape(shape)
    channels = int(workflow.settings["channels"])
    images = torch.zeros(2, channels, height, width)
    images[..., height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None] = 0.5
    inputs = (images, torch.full((2,), 0.5)) if network.detector.location_weight else (images,)
    description = describe_graph(network, channels, (height, width))
    network.normative = None  # a slice has no place: the atlases of healthy scans would travel for nothing
    write = _write_onnx if graph_format == "onnx" else _write_torchscript
    with quiet(*_NOISY_LOGGERS), contextlib.redirect_stdout(io.StringIO()), torch.no_grad(), without_leftovers(out):
        network(*inputs)  # what is computed once, the mixture's density, must not become part of the graph
        replace_file(out, lambda temporary: write(network, inputs, temporary, description))
    return Path(out)


def describe_graph(network: AnomalyNet, channels: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Say what a user of the graph needs to know: input, backbone, thresholds of the calibration.

    Args:
        network: the fitted network.
        channels: C of the input.
        shape: H and W of the input.

    Returns:
        Plain JSON.
    """
    calibration = network.calibration
    placed = network.normative is not None
    rates = RATES if calibration.fitted and not placed else ()
    thresholds = {f"{rate:g}": float(calibration.threshold(rate)) for rate in rates}
    return {
        "input": f"image (B, {channels}, {shape[0]}, {shape[1]}), foreground in (0, 1], background exactly 0",
        "output": "pred (B, 1, H, W), non-negative, higher is more anomalous",
        "backbone_sha256": bytes(network.backbone_digest.tolist()).hex(),
        "thresholds_by_false_positive_rate": thresholds,
        "outside_the_graph": OUTSIDE if placed else "",
        "intended_use": "Research only. This is not a medical device.",
    }


def _check_shape(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"`shape` must be height and width in pixels, got {tuple(shape)}.")
    return int(shape[0]), int(shape[1])


def _write_torchscript(network: nn.Module, inputs: tuple[Tensor, ...], path: Path, description: Any) -> None:
    traced = torch.jit.trace(network, inputs, check_trace=False)
    content = io.BytesIO()  # given a path, torch's writer aborts the process on a full disk
    torch.jit.save(traced, content, _extra_files={"metadata.json": json.dumps(description)})
    path.write_bytes(content.getbuffer())


def _write_onnx(network: nn.Module, inputs: tuple[Tensor, ...], path: Path, description: Any) -> None:
    onnx = import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")  # what torch exports with
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    program = torch.onnx.export(
        network,
        inputs,
        dynamo=True,
        opset_version=_OPSET,
        input_names=["image", "position"][: len(inputs)],
        output_names=["pred"],
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        verbose=False,
    )
    model = program.model_proto  # type: ignore[union-attr]
    onnx.helper.set_model_props(model, {name: _to_text(value) for name, value in description.items()})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
