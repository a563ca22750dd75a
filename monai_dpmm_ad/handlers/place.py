# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Show a network's normative map the fitted scans, before the calibration begins."""

from __future__ import annotations

from collections.abc import Callable

from ignite.engine import Engine, Events

from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.embedding import EmbeddingStore
from monai_dpmm_ad.engines.place import fit_normative
from monai_dpmm_ad.network import AnomalyNet

__all__ = ["NormativeHandler"]


class NormativeHandler:
    """Fit ``network.normative``, where there is one, when the evaluator starts.

    Attach it after the checkpoint loader, whose model has the detector alone, and before the calibration.

    Args:
        network: its detector is fitted.
        dataset: the fitted scans, see :func:`~monai_dpmm_ad.engines.place.fit_normative`.
        open_store: gives their embeddings.
        frame: how places are brought together, see there.
        match: ``on`` or ``off``, see there.

    Example:
        >>> from ignite.engine import Engine
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> engine = Engine(lambda engine, batch: None)
        >>> NormativeHandler(network, dataset=[], open_store=lambda: None).attach(engine)
        >>> _ = engine.run([0])
        >>> network.normative is None  # this network has none, so nothing was done
        True
    """

    def __init__(
        self,
        network: AnomalyNet,
        dataset: ScanDataset,
        open_store: Callable[[], EmbeddingStore],
        frame: str = "auto",
        match: str = "off",
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.open_store = open_store
        self.frame = frame
        self.match = match

    def attach(self, engine: Engine) -> None:
        """Register the handler's event."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if self.network.normative is not None:
            fit_normative(self.network, self.dataset, self.open_store(), self.frame, self.match)
