# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Ignite engines: evaluate scans, fit a detector, validate it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.transforms import Compose, apply_transform
from monai.utils import CommonKeys

from monai_dpmm_ad.data.dataset import FAILURE, ScanFailure, describe_failure
from monai_dpmm_ad.engines.prefetch import ALONE, Prefetcher
from monai_dpmm_ad.errors import SCAN_ERRORS
from monai_dpmm_ad.utils.memory import release_heap

__all__ = ["PATCH_SUMMARY", "ScanEvaluator", "iteration_scans"]

#: Key of what the inferer says of a scan's patches in the scan's output; None where nothing was asked or seen.
PATCH_SUMMARY = "patch_summary"


def iteration_scans(engine: Engine) -> list[dict[str, Any]]:
    """What the current iteration of a :class:`ScanEvaluator` gave: one dictionary, or none where the scan failed."""
    return cast(list[dict[str, Any]], engine.state.output)


class ScanEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for one scan at a time, in which a bad scan does not stop the others.

    A scan that cannot be read, mapped or saved is appended to ``engine.failures``; its iteration ends with an empty
    list as output, which handlers skip. Everything else is as in :class:`monai.engines.SupervisedEvaluator`, but the
    network works on the next scan, in a thread of its own, while this one is postprocessed, saved and handled, and
    another thread reads the one after that. A large scan is alone in memory, and of no scan more is kept than what is
    still needed: what a step of the postprocessing replaces is let go, and so are all results when the next scan comes.

    Args:
        args: as in :class:`monai.engines.SupervisedEvaluator`, and so are the others.
        summarise: whether the inferer, a :class:`~monai_dpmm_ad.network.VolumeInferer`, is asked how usual each scan's
            patches are; the scan's output has the answer as ``patch_summary``.
        kwargs: as there.

    Attributes:
        failures: the scans that were not processed.
        at_end: what a handler wants done when a run ends, in whatever way.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import load_workflow
        >>> options = {"dataset_dir": [str(folder / "scans")], "output_dir": str(folder / "maps"), "save_maps": False}
        >>> with load_workflow(folder / "bundle", ["inference"], "inference", **options) as workflow:
        ...     _ = workflow.run()
        >>> isinstance(workflow.evaluator, ScanEvaluator), workflow.evaluator.failures
        (True, [])
    """

    def __init__(self, *args: Any, summarise: bool = False, **kwargs: Any) -> None:
        self.failures: list[ScanFailure] = []
        self.summarise = summarise
        self.at_end = ExitStack()
        super().__init__(*args, **kwargs)
        self._reader: Prefetcher[dict[str, Any], dict[str, Any]] = Prefetcher(self.data_loader, alone=_is_large)
        self.data_loader = self._prefetcher = Prefetcher(
            self._reader, self._predict, lambda prediction: _is_large(prediction.scan)
        )
        self.add_event_handler(Events.GET_BATCH_STARTED, ScanEvaluator._let_go)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Process all scans; ``failures`` starts empty.

        Raises:
            RuntimeError: when the loader ends before its last scan, as one may whose thread keeps to itself what it
                raised.
        """
        self.failures.clear()
        with self.at_end:
            if not self.state.epoch_length:
                # Nothing is left for this process, but the others wait for it where they gather their results.
                for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
                    self.fire_event(event)
                return
            try:
                super().run(global_epoch)
            finally:
                self._prefetcher.close()
                self._reader.close()
                self._let_go()
                release_heap()  # for what comes after the maps, a report for instance

    def _register_postprocessing(self, posttrans: Callable[..., Any]) -> None:
        steps = posttrans.transforms if isinstance(posttrans, Compose) else (posttrans,)

        @self.on(IterationEvents.MODEL_COMPLETED)
        def _postprocess(engine: Engine) -> None:
            (before,), (output,) = cast(list[dict[str, Any]], engine.state.batch), iteration_scans(engine)
            data: Any = {**before, **output}
            loaded = before.keys() - output.keys()
            before.clear()
            output.clear()
            for step in steps:  # one by one: a chain would keep what went into it
                data = apply_transform(step, data)
            for key, value in data.items():
                (before if key in loaded else output)[key] = value

    def _let_go(self) -> None:
        self.state.batch, self.state.output = [], []

    def _predict(self, scan: dict[str, Any]) -> _Prediction:
        """Map a scan, in the network's thread."""
        if FAILURE in scan:
            return _Prediction(scan, failure=scan[FAILURE])
        try:
            return self._map(scan)
        except SCAN_ERRORS as error:
            return _Prediction({}, failure=describe_failure(_identify(scan), error))

    def _map(self, batchdata: dict[str, Any]) -> _Prediction:
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)  # type: ignore
        inputs, targets, arguments, options = batch if len(batch) == 4 else (*batch, (), {})

        def network(*args: Any, **kwargs: Any) -> Any:
            self._prefetcher.check()
            return self.network(*args, **kwargs)

        if self.summarise:
            options = {**options, "summarise": True}
        with self.mode(self.network), torch.autocast("cuda", enabled=self.amp, **self.amp_kwargs):
            result = self.inferer(inputs, network, *arguments, **options)
        maps, (summary, *_) = result if self.summarise else (result, [None])
        # Taken off a GPU here: a copy that the other thread asked for would wait for the next scan's passes.
        output: dict[str, Any] = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets, CommonKeys.PRED: maps.cpu()}
        return _Prediction(batchdata, output, summary)

    def _iteration(self, engine: Any, prediction: _Prediction) -> Any:  # type: ignore[override]
        if prediction.failure is not None:
            self.failures.append(prediction.failure)
            self._let_go()
            return self.state.output
        named = _identify(prediction.scan)
        if _is_large(prediction.scan):
            release_heap()  # of the network's activations
        self.state.batch, self.state.output = dict(prediction.scan), dict(prediction.output)
        prediction.scan.clear()  # others hold the prediction as long as the iteration lasts
        prediction.output.clear()
        try:
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            self.fire_event(IterationEvents.MODEL_COMPLETED)
        except SCAN_ERRORS as error:
            self.fail(named, error)
        for scan in iteration_scans(self):
            scan[PATCH_SUMMARY] = prediction.summary
        return self.state.output

    def fail(self, scan: Mapping[Any, Any], error: BaseException) -> None:
        """Leave the current scan out of all that follows, and go on with the next.

        Args:
            scan: its ``name`` and ``image``.
            error: why.
        """
        self.failures.append(describe_failure(scan, error))
        self._let_go()


@dataclass(frozen=True)
class _Prediction:
    """What the network says of a scan: MONAI's output and the summary of its patches, or why there is neither."""

    scan: dict[str, Any]
    output: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, list[float]] | None = None
    failure: ScanFailure | None = None


def _is_large(scan: dict[str, Any]) -> bool:
    return CommonKeys.IMAGE in scan and scan[CommonKeys.IMAGE].nbytes >= ALONE


def _identify(scan: dict[str, Any]) -> dict[Hashable, Any]:
    """Name and path of a loaded scan."""
    meta = scan[CommonKeys.IMAGE].meta
    return {"name": meta["name"][0], "image": meta["filename_or_obj"][0]}
