# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Show a network's intensity tail what healthy pixels look like, before the calibration begins."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.intensity_tail import IntensityTail
from monai_dpmm_ad.utils.distributed import gather_rows, share

__all__ = ["IntensityTailHandler", "fit_intensity_tail"]


class IntensityTailHandler:
    """Fit ``network.intensity_tail``, where there is one, when the evaluator starts.

    Attach it after the checkpoint loader, whose model knows no intensities yet, and before the calibration.

    Args:
        network: its detector is fitted.
        dataset: held-out healthy scans as lists of slices, see `fit_intensity_tail`.
        device: where the network runs.
        seed: of the choice of pixels.

    Example:
        >>> from ignite.engine import Engine
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> engine = Engine(lambda engine, batch: None)
        >>> IntensityTailHandler(network, dataset=[], device="cpu").attach(engine)
        >>> _ = engine.run([0])
        >>> network.intensity_tail is None  # this network has none, so nothing was done
        True
    """

    def __init__(self, network: AnomalyNet, dataset: ScanDataset, device: str = "cpu", seed: int = 0) -> None:
        self.network = network
        self.dataset = dataset
        self.device = device
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register the handler's event."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if self.network.intensity_tail is not None:
            fit_intensity_tail(self.network, self.dataset, self.device, seed=self.seed)


@torch.no_grad()
def fit_intensity_tail(
    network: AnomalyNet,
    dataset: ScanDataset,
    device: torch.device | str = "cpu",
    slices_per_scan: int = 16,
    pixels_per_scan: int = 50_000,
    seed: int = 0,
) -> None:
    """Show the network's intensity tail healthy pixels, as many of each scan, without what a label marks.

    Args:
        network: with an ``intensity_tail`` and a fitted detector.
        dataset: healthy scans; the transform ends in :class:`~monai_dpmm_ad.transforms.SampleSlicesd`. Under
            torch.distributed each process takes its share of them.
        device: where the network runs.
        slices_per_scan: evenly spaced ones; the cost is their forward passes.
        pixels_per_scan: drawn at random.
        seed: of that draw.

    Raises:
        ValueError: when the network has no intensity tail, or no scan can be read.
    """
    tail = network.intensity_tail
    if tail is None:
        raise ValueError("`network` must have an intensity tail, got none. Give it `intensity_tail`.")
    network.to(device).eval()
    pairs = [torch.zeros(0, 2)]
    for number in share(range(len(dataset))):
        slices = dataset[number]
        if isinstance(slices, dict):  # a failure, which the calibration reports
            continue
        step = max(1, len(slices) // slices_per_scan)
        found = torch.cat([_healthy_pixels(item, network, tail, device) for item in slices[step // 2 :: step]])
        # A generator for each scan: the draw does not depend on the number of processes.
        generator = torch.Generator().manual_seed(seed + number)
        pairs.append(found[torch.randperm(len(found), generator=generator)[:pixels_per_scan]])
    scores, intensities = gather_rows(torch.cat(pairs)).unbind(1)
    tail.fit(scores, intensities)


def _healthy_pixels(
    item: dict[str, Any], network: AnomalyNet, tail: IntensityTail, device: torch.device | str
) -> Tensor:
    """Score and smoothed intensity ``(n, 2)`` of the healthy foreground pixels of one slice."""
    image = item["image"].as_subclass(Tensor)[None].to(device)
    maps = network.compute_embedding_maps(image, torch.tensor([item["position"]], device=device), item["aspect"])
    middle = image.shape[1] // 2
    smooth = tail.smooth(image[:, middle : middle + 1])
    healthy = smooth > 0
    if "label" in item:
        healthy &= ~(item["label"].as_subclass(Tensor)[None].to(device) > 0)
    return torch.stack([maps[healthy], smooth[healthy]], dim=1).cpu()
