# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Watch the patches of each scan, to tell whether a cohort comes from the population that was fitted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor

from monai_dpmm_ad.calibration.drift import compute_profile
from monai_dpmm_ad.detectors import DPMMDetector
from monai_dpmm_ad.embedding.types import EncodedSlices
from monai_dpmm_ad.engines import ScanEvaluator, iteration_scans
from monai_dpmm_ad.engines.resume import ResumeLog
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.distributed import gather_lists, get_rank
from monai_dpmm_ad.utils.files import remove_file, write_json

__all__ = ["DriftHandler"]

_ROWS = 64  # about so many of each slice: the look costs a fraction of a per cent of the pass that gave the patches


class DriftHandler:
    """Fill a network's drift reference with the calibration's scans, or compare a cohort with it.

    Attach it before :class:`~monai_dpmm_ad.handlers.ScanTable`, which keeps each scan's ``drift`` for a restart.

    Args:
        network: its patches are watched.
        output_dir: folder of ``drift.json``; None fills the reference instead.
        held_out: False where the calibration's scans were also fitted; new ones differ from those, so that nothing can
            be said and the reference stays empty.
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
        self._densities: list[Tensor] = []
        self._usage: list[Tensor] = []

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.watchers["drift"] = self._take
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._scans = {}
        for name, record in (self.finished.records if self.finished else {}).items():
            if record.get("drift"):
                self._scans[name] = record["drift"]
        self.network.observer = self._observe

    def _stop(self, engine: Engine) -> None:
        self.network.observer = None

    @torch.no_grad()
    def _observe(self, encoded: EncodedSlices, valid: Tensor, scores: Tensor) -> None:
        chosen = _choose_rows(valid)
        detector = self.network.detector
        if not isinstance(detector, DPMMDetector):  # no density, but scores that fall where patches are usual
            self._densities.append(-scores[chosen].cpu())
            return
        rows = {name: values[chosen] for name, values in encoded.rows().items()}
        self._densities.append(detector.criterion(rows).cpu())
        self._usage.append(detector.mixture.responsibilities(detector.features(rows)).sum(0).cpu())

    def _take(self) -> dict[str, list[float]] | None:
        """What was seen of one scan; None where it showed no patch."""
        density = torch.cat(self._densities) if self._densities else torch.zeros(0)
        usage = torch.stack(self._usage).sum(0) / len(density) if self._usage else torch.zeros(0)
        self._densities.clear()
        self._usage.clear()
        return {"profile": compute_profile(density).tolist(), "usage": usage.tolist()} if len(density) else None

    def _update(self, engine: Engine) -> None:
        for scan in iteration_scans(engine):
            if scan["drift"]:
                self._scans[scan[CommonKeys.PRED].meta["name"]] = scan["drift"]

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


def _choose_rows(valid: Tensor) -> Tensor:
    """Choose patches of each slice by itself, so that it does not matter which slices share a batch.

    Args:
        valid: ``(B, h, w)``, boolean.

    Returns:
        The same, with at least ``_ROWS`` and less than twice as many patches of each slice, or all that it has.
    """
    flat = valid.flatten(1)
    count = flat.sum(1, keepdim=True)
    number = flat.cumsum(1) - 1  # of each patch among the valid ones of its slice
    step = (count // _ROWS).clamp(min=1)
    return (flat & (number % step == 0)).view_as(valid)
