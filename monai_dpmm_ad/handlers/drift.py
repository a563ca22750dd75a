# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Watch the patches of each scan, to tell whether it, and the cohort, comes from the population that was fitted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
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
from monai_dpmm_ad.utils.files import write_json

__all__ = ["DriftHandler"]

_ROWS = 512  # of each batch of slices: the look costs a fraction of a per cent of the pass that gave the patches


class DriftHandler:
    """Fill a network's drift reference with the calibration's scans, or compare scans and the cohort with it.

    A scan that lies off by more than healthy ones do, or is of another kind (modality, voxel sizes, …), gets a
    ``warning`` in its output.

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
        self._facts: dict[str, dict[str, Any]] = {}
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
        self._scans, self._facts = {}, {}
        for name, record in (self.finished.records if self.finished else {}).items():
            if record.get("drift"):
                self._scans[name] = record["drift"]
        self.network.observer = self._observe

    def _stop(self, engine: Engine) -> None:
        self.network.observer = None

    @torch.no_grad()
    def _observe(self, encoded: EncodedSlices, valid: Tensor, scores: Tensor) -> None:
        step = max(1, int(valid.sum()) // _ROWS)
        detector = self.network.detector
        if not isinstance(detector, DPMMDetector):  # no density, but scores that fall where patches are usual
            self._densities.append(-scores[valid][::step].cpu())
            return
        rows = {name: values[valid][::step] for name, values in encoded.rows().items()}
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
            meta = scan[CommonKeys.PRED].meta
            facts = json.loads(meta["facts"]) if meta.get("facts") else None
            if facts:
                self._facts[meta["name"]] = facts
            if scan["drift"]:
                self._scans[meta["name"]] = scan["drift"]
            if self.output_dir is not None:
                scan["warning"] = self._warn(scan["drift"], facts, json.loads(meta.get("notes") or "[]"))

    def _warn(
        self, drift: dict[str, list[float]] | None, facts: dict[str, Any] | None, notes: Sequence[str]
    ) -> str | None:
        """What a user should know of one scan, as sentences; None where there is nothing to say."""
        clauses = self.network.kind.compare(facts) if facts else []
        if drift:
            off = self.network.drift.judge(torch.tensor(drift["profile"]), torch.tensor(drift["usage"]))
            clauses = [off, *clauses] if off else clauses
        sentences = list(notes)
        if clauses:
            sentences.insert(0, f"this scan is unlike those that were fitted, do not rely on it: {'; '.join(clauses)}")
        return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) or None

    def _finish(self, engine: Engine) -> None:
        scans: Mapping[str, Any] = dict(sorted(gather_lists(list(self._scans.items()))))
        profiles = torch.tensor([scan["profile"] for scan in scans.values()])
        usage = torch.tensor([scan["usage"] for scan in scans.values()])
        reference = self.network.drift
        if self.output_dir is None:
            facts = dict(sorted(gather_lists(list(self._facts.items()))))
            self.network.kind.fit(list(facts.values()))
            if scans and self.held_out:
                reference.fit(profiles, usage)
            return
        self.result = reference.compare(profiles, usage) if scans and int(reference.num_scans) else None
        path = self.output_dir / "drift.json"
        if get_rank() == 0 and self.result is not None:
            write_json(path, self.result)
        elif get_rank() == 0:
            path.unlink(missing_ok=True)  # an earlier run's
