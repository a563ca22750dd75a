# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Ignite engines: evaluate scans, fit a detector, validate it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import Evaluator, SupervisedEvaluator, Trainer
from monai.inferers import Inferer
from monai.utils import CommonKeys

from monai_dpmm_ad.fitting import StoreLoader
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.scans import FAILURE, ScanFailure, describe_failure

__all__ = ["DetectorTrainer", "HeldOutEvaluator", "ScanEvaluator", "finished_scans"]


def finished_scans(engine: Engine) -> list[dict[str, Any]]:
    """What the current iteration of a :class:`ScanEvaluator` gave: one dictionary, or none where the scan failed."""
    return cast(list[dict[str, Any]], engine.state.output)


class ScanEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for one scan at a time, in which a bad scan does not stop the others.

    A scan that cannot be read, mapped or saved is appended to ``engine.failures``; its iteration ends with an empty
    list as output, which handlers skip. Everything else is as in :class:`monai.engines.SupervisedEvaluator`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures: list[ScanFailure] = []

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Process all scans; ``failures`` starts empty."""
        self.failures.clear()
        if self.state.epoch_length:
            super().run(global_epoch)
        else:  # nothing is left for this process, but the others wait for it where they gather their results
            for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
                self.fire_event(event)

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        if FAILURE in batchdata:
            return self._fail(batchdata[FAILURE])
        try:
            return super()._iteration(engine, batchdata)
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            meta = batchdata[CommonKeys.IMAGE].meta
            item: dict[Hashable, Any] = {"name": meta["name"][0], "image": meta["filename_or_obj"][0]}
            return self._fail(describe_failure(item, error))

    def _fail(self, failure: ScanFailure) -> list[Any]:
        self.failures.append(failure)
        self.state.batch, self.state.output = [], []
        return self.state.output


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
            detector.initialize(self._draw_sample(), self.num_data)
            self._starts = False
        gain = self.inferer(_to_device(self, batchdata), lambda rows: detector.fit_batch(rows, self.num_data))
        if self.state.iteration % cast(int, self.state.epoch_length) == 0:  # before any handler of the epoch's end
            detector.finish_epoch(self._draw_sample)
        return {CommonKeys.LOSS: -gain}

    def _draw_sample(self) -> dict[str, torch.Tensor]:
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
