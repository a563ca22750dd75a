# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Tell from the patches of each scan whether a cohort comes from the population that was fitted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from monai_dpmm_ad.engines import PATCH_SUMMARY, ScanEvaluator, iteration_scans
from monai_dpmm_ad.engines.resume import ResumeLog
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.distributed import gather_lists, get_rank
from monai_dpmm_ad.utils.files import remove_file, write_json

__all__ = ["DriftHandler"]


class DriftHandler:
    """Fill a network's drift reference with the calibration's scans, or compare a cohort with it.

    It reads each scan's ``patch_summary``, for which the evaluator must have been asked with ``summarise``.

    Args:
        network: holds the reference.
        output_dir: folder of ``drift.json``; None fills the reference instead.
        held_out: False where the calibration's scans were also fitted. They are more usual than any new scan then, so
            that a comparison would always find a drift: the reference stays empty.
        finished: gives the scans of an interrupted run.

    Attributes:
        result: what ``drift.json`` says, None where there is no reference.
    """

    def __init__(
        self,
        network: AnomalyNet,
        output_dir: str | os.PathLike[str] | None = None,
        held_out: bool = True,
        finished: ResumeLog | None = None,
    ) -> None:
        self.network = network
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.held_out = held_out
        self.finished = finished
        self.result: dict[str, Any] | None = None
        self._scans: dict[str, dict[str, list[float]]] = {}

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._scans = {}
        for name, record in (self.finished.records if self.finished else {}).items():
            if record.get(PATCH_SUMMARY):
                self._scans[name] = record[PATCH_SUMMARY]

    def _update(self, engine: Engine) -> None:
        for scan in iteration_scans(engine):
            if scan[PATCH_SUMMARY]:
                self._scans[scan[CommonKeys.PRED].meta["name"]] = scan[PATCH_SUMMARY]

    def _finish(self, engine: Engine) -> None:
        scans: Mapping[str, Any] = dict(sorted(gather_lists(list(self._scans.items()))))
        profiles = torch.tensor([scan["profile"] for scan in scans.values()])
        usage = torch.tensor([scan["usage"] for scan in scans.values()])
        reference = self.network.drift
        if self.output_dir is None:
            if scans and self.held_out:
                reference.fit(profiles, usage)
            return
        self.result = reference.compare(profiles, usage) if scans and int(reference.num_scans) else None
        path = self.output_dir / "drift.json"
        if get_rank() == 0 and self.result is not None:
            write_json(path, self.result)
        elif get_rank() == 0:
            remove_file(path)  # an earlier run's
