# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From held-out healthy scans to the intensity tail of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_dpmm_ad.intensity_tail import IntensityTail
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.processes import gather_rows, share
from monai_dpmm_ad.scans import ScanDataset

__all__ = ["fit_intensity_tail"]


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
    maps = network.draw_embedding_maps(image, torch.tensor([item["position"]], device=device))
    middle = image.shape[1] // 2
    smooth = tail.smooth(image[:, middle : middle + 1])
    healthy = smooth > 0
    if "label" in item:
        healthy &= ~(item["label"].as_subclass(Tensor)[None].to(device) > 0)
    return torch.stack([maps[healthy], smooth[healthy]], dim=1).cpu()
