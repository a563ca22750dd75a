# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Show a network's intensity tail what healthy pixels look like, before the calibration begins."""

from __future__ import annotations

from ignite.engine import Engine, Events

from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.scans import ScanDataset
from monai_dpmm_ad.tail_fitting import fit_intensity_tail

__all__ = ["IntensityTailHandler"]


class IntensityTailHandler:
    """Fit ``network.intensity_tail``, where there is one, when the evaluator starts.

    Attach it after the checkpoint loader, whose model knows no intensities yet, and before the calibration.

    Args:
        network: its detector is fitted.
        dataset: held-out healthy scans as lists of slices, see `fit_intensity_tail`.
        device: where the network runs.
        seed: of the choice of pixels.
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
