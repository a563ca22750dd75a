# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Ignite engines that fit a detector on stored embeddings and validate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from ignite.metrics import Metric
from monai.engines import Evaluator, Trainer
from monai.inferers import Inferer
from monai.utils import CommonKeys

from monai_dpmm_ad.embedding.store.loader import StoreLoader
from monai_dpmm_ad.network import AnomalyNet

__all__ = ["DetectorTrainer", "HeldOutEvaluator"]


class DetectorTrainer(Trainer):
    """Fit a network's detector on batches of stored embeddings.

    The order of calls is that of :class:`~monai_dpmm_ad.detectors.Detector`. The output is
    ``{"loss": −what fit_batch returns}``; for the mixture that is −ELBO per patch in nats.

    Args:
        device: where to fit.
        max_epochs: passes over the store, unless the detector needs fewer.
        train_data_loader: batches of rows in the detector's ``batch_unit``.
        network: its detector is fitted; the embedder is not touched.
        inferer: part of MONAI's interface; called with a batch and the detector's step.
        key_train_metric: as in MONAI.
        additional_metrics: as in MONAI.
        train_handlers: as in MONAI.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example_store
        >>> from monai_dpmm_ad.embedding.store import EmbeddingStore
        >>> folder = make_example_store()
        >>> from monai.inferers import SimpleInferer
        >>> from monai_dpmm_ad import StoreLoader
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> loader = StoreLoader(lambda: EmbeddingStore(folder), batch_size=32)
        >>> DetectorTrainer("cpu", 1, loader, network, SimpleInferer()).run()
        >>> network.detector.fitted
        True
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: StoreLoader,
        network: AnomalyNet,
        inferer: Inferer,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            handlers=train_handlers,
            decollate=False,
        )
        self.loader = train_data_loader
        self.network = network
        self.inferer = inferer

    def run(self) -> None:  # type: ignore[override]
        """Fit; a detector that a checkpoint has already fitted is not placed anew."""
        self.network.to(self.state.device)
        self._starts = not self.network.detector.fitted
        self.num_data = self.loader.num_data  # opens the store
        self.state.epoch_length = len(self.loader)
        own_limit = self.network.detector.max_epochs
        if own_limit is not None:
            self.state.max_epochs = min(own_limit, self.state.max_epochs or own_limit)
        super().run()

    def _iteration(self, engine: Any, batchdata: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        detector = self.network.detector
        if self._starts:
            detector.initialize(self._load_sample(), self.num_data)
            self._starts = False
        gain = self.inferer(_to_device(self, batchdata), lambda rows: detector.fit_batch(rows, self.num_data))
        if self.state.iteration % cast(int, self.state.epoch_length) == 0:  # before any handler of the epoch's end
            detector.finish_epoch(self._load_sample)
        return {CommonKeys.LOSS: -gain}

    def _load_sample(self) -> dict[str, torch.Tensor]:
        return cast(dict[str, torch.Tensor], _to_device(self, self.loader.sample()))


class HeldOutEvaluator(Evaluator):
    """The detector's criterion on held-out normal patches, by which the best epoch is chosen.

    Args:
        device: where to evaluate.
        val_data_loader: batches of rows in the detector's ``batch_unit``.
        network: holds the detector.
        inferer: part of MONAI's interface; called with a batch and the detector's criterion.
        key_val_metric: as in MONAI.
        val_handlers: as in MONAI.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example_store
        >>> from monai_dpmm_ad.embedding.store import EmbeddingStore
        >>> folder = make_example_store()
        >>> from ignite.metrics import Average
        >>> from monai.inferers import SimpleInferer
        >>> from monai_dpmm_ad import DetectorTrainer, StoreLoader
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> loader = StoreLoader(lambda: EmbeddingStore(folder), batch_size=32)
        >>> DetectorTrainer("cpu", 1, loader, network, SimpleInferer()).run()
        >>> key = {"criterion": Average(output_transform=lambda output: output[:, None])[0]}
        >>> evaluator = HeldOutEvaluator("cpu", loader, network, SimpleInferer(), key_val_metric=key)
        >>> evaluator.run()
        >>> sorted(evaluator.state.metrics)
        ['criterion']
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: StoreLoader,
        network: AnomalyNet,
        inferer: Inferer,
        key_val_metric: dict[str, Metric] | None = None,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            key_val_metric=key_val_metric,
            val_handlers=val_handlers,
            decollate=False,
        )
        self.loader = val_data_loader
        self.network = network
        self.inferer = inferer

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Evaluate all held-out patches, embedding them first where that has not been done."""
        self.loader.open()
        self.state.epoch_length = len(self.loader)
        super().run(global_epoch)

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        return self.inferer(_to_device(self, batchdata), self.network.detector.criterion)


def _to_device(engine: DetectorTrainer | HeldOutEvaluator, rows: Mapping[str, torch.Tensor]) -> Any:
    return {name: tensor.to(engine.state.device) for name, tensor in rows.items()}
