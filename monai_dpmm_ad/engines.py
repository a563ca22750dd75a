# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Ignite engines: evaluate scans, fit a detector, validate it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import Evaluator, SupervisedEvaluator, Trainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils import CommonKeys

from monai_dpmm_ad.ahead import Ahead
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.scans import FAILURE, ScanFailure, describe_failure
from monai_dpmm_ad.store_loader import StoreLoader

__all__ = ["DetectorTrainer", "HeldOutEvaluator", "ScanEvaluator", "finished_scans"]


def finished_scans(engine: Engine) -> list[dict[str, Any]]:
    """What the current iteration of a :class:`ScanEvaluator` gave: one dictionary, or none where the scan failed."""
    return cast(list[dict[str, Any]], engine.state.output)


class ScanEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for one scan at a time, in which a bad scan does not stop the others.

    A scan that cannot be read, mapped or saved is appended to ``engine.failures``; its iteration ends with an empty
    list as output, which handlers skip. Everything else is as in :class:`monai.engines.SupervisedEvaluator`, but the
    network works on the next scan, in a thread of its own, while this one is postprocessed, saved and handled. One
    scan and its map more are in memory for that.

    Attributes:
        failures: the scans that were not processed.
        watchers: called in the network's thread before and after each scan is mapped; what they return after it comes
            into the scan's output under their name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.failures: list[ScanFailure] = []
        self.watchers: dict[str, Callable[[], Any]] = {}  # handlers are attached by the base class
        super().__init__(*args, **kwargs)
        self.data_loader = self._ahead = Ahead(self.data_loader, self._predict)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Process all scans; ``failures`` starts empty.

        Raises:
            RuntimeError: when the loader ends before its last scan: MONAI's keeps to itself what its thread raised.
        """
        self.failures.clear()
        if not self.state.epoch_length:
            # Nothing is left for this process, but the others wait for it where they gather their results.
            for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
                self.fire_event(event)
            return
        try:
            super().run(global_epoch)
        finally:
            self._ahead.close()

    def _predict(self, batchdata: dict[str, Any]) -> _Prediction:
        """Map a scan, in the network's thread."""
        if FAILURE in batchdata:
            return _Prediction(failure=batchdata[FAILURE])
        for watch in self.watchers.values():
            watch()  # what an earlier scan left that could not be mapped
        try:
            output = self._map(batchdata)
        except _OF_THE_SCAN as error:
            return _Prediction(failure=_blame(batchdata, error))
        return _Prediction(output, {name: watch() for name, watch in self.watchers.items()})

    def _map(self, batchdata: dict[str, Any]) -> dict[str, Any]:
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)  # type: ignore
        inputs, targets, arguments, options = batch if len(batch) == 4 else (*batch, (), {})

        def network(*args: Any, **kwargs: Any) -> Any:
            self._ahead.check()
            return self.network(*args, **kwargs)

        with self.mode(self.network), torch.autocast("cuda", enabled=self.amp, **self.amp_kwargs):
            maps = self.inferer(inputs, network, *arguments, **options)
        # Taken off a GPU here: a copy that the other thread asked for would wait for the next scan's passes.
        return {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets, CommonKeys.PRED: maps.cpu()}

    def _iteration(self, engine: Any, batchdata: tuple[Any, _Prediction]) -> Any:  # type: ignore[override]
        loaded, prediction = batchdata
        if prediction.failure is not None:
            return self._fail(prediction.failure)
        self.state.batch, self.state.output = loaded, prediction.output
        try:
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            self.fire_event(IterationEvents.MODEL_COMPLETED)
        except _OF_THE_SCAN as error:
            return self._fail(_blame(loaded, error))
        for scan in finished_scans(self):
            scan.update(prediction.seen)
        return self.state.output

    def _fail(self, failure: ScanFailure) -> list[Any]:
        self.failures.append(failure)
        self.state.batch, self.state.output = [], []
        return self.state.output


_OF_THE_SCAN = (ValueError, RuntimeError, OSError, MemoryError)  # what a scan may cause; anything else is a mistake


@dataclass(frozen=True)
class _Prediction:
    """What the network says of a scan: MONAI's output and what was seen on the way, or why there is none."""

    output: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    failure: ScanFailure | None = None


def _blame(batchdata: dict[str, Any], error: Exception) -> ScanFailure:
    meta = batchdata[CommonKeys.IMAGE].meta
    item: dict[Hashable, Any] = {"name": meta["name"][0], "image": meta["filename_or_obj"][0]}
    return describe_failure(item, error)


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
