# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Ignite engines: evaluate scans, fit the mixture, validate it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.engines import Evaluator, SupervisedEvaluator, Trainer
from monai.inferers import Inferer
from monai.utils import CommonKeys

from monai_dpmm_ad.fitting import StoreLoader
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.scans import FAILURE, ScanFailure, describe_failure

__all__ = ["LikelihoodEvaluator", "MixtureTrainer", "ScanEvaluator", "finished_scans"]


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
        super().run(global_epoch)

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


class MixtureTrainer(Trainer):
    """Fit a network's detector on batches of stored embeddings.

    The first iteration places the components on a sample; every iteration takes one optimiser step. The output is
    ``{"loss": −ELBO per patch in nats}``.

    Args:
        device: where to fit.
        max_epochs: passes over the store.
        train_data_loader: batches ``{"patches": (n, S, D), "location": (n, 3)}``.
        network: its detector is fitted; the embedder is not touched.
        inferer: part of MONAI's interface; called with a batch's features and the detector's step.
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
        self.num_data = self.loader.num_data  # opens the store
        self.state.epoch_length = len(self.loader)
        super().run()

    def _iteration(self, engine: Any, batchdata: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        detector = self.network.detector
        if not detector.fitted:
            detector.initialize(_features(self, self.loader.sample()), self.num_data)
        elbo = self.inferer(_features(self, batchdata), lambda x: detector.fit_batch(x, self.num_data))
        return {CommonKeys.LOSS: -elbo}


class LikelihoodEvaluator(Evaluator):
    """Mean log-likelihood of held-out normal patches, the paper's criterion for the best epoch.

    Args:
        device: where to evaluate.
        val_data_loader: batches ``{"patches": (n, S, D), "location": (n, 3)}``.
        network: holds the detector.
        inferer: part of MONAI's interface; called with features and the detector's log-likelihood.
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
        return self.inferer(_features(self, batchdata), self.network.detector.log_likelihood)


def _features(engine: MixtureTrainer | LikelihoodEvaluator, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A stored batch as the vectors that the engine's detector models, on the engine's device."""
    device = engine.state.device
    return engine.network.detector.features(batch["patches"].to(device), batch["location"].to(device))
