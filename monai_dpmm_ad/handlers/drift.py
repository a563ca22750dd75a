# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Tell from the patches of each scan whether it, and the cohort, comes from the population that was fitted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from monai_dpmm_ad.calibration.drift import DriftReference
from monai_dpmm_ad.engines import PATCH_SUMMARY, ScanEvaluator, iteration_scans
from monai_dpmm_ad.engines.resume import ResumeLog
from monai_dpmm_ad.network import AnomalyNet, SequenceNet
from monai_dpmm_ad.utils.distributed import gather_lists, get_rank
from monai_dpmm_ad.utils.files import remove_file, write_json

__all__ = ["DriftHandler"]


#: What is known of the patches of a scan; None where nothing was asked or seen.
Summary = dict[str, list[float]] | None


class DriftHandler:
    """Fill a network's drift reference with the calibration's scans, or compare scans and the cohort with it.

    A scan that lies off by more than healthy ones do, or is of another kind (modality, voxel sizes, …), gets a
    ``warning`` in its output.

    It reads each scan's ``patch_summary``, for which the evaluator must have been asked with ``summarise``. Of several
    sequences each is compared with its own; the cohort is told by the first.

    Args:
        network: holds the reference.
        output_dir: folder of ``drift.json``; None fills the reference instead.
        held_out: False where the calibration's scans were also fitted. They are more usual than any new scan then, so
            that a comparison would always find a drift: the reference stays empty.
        finished: gives the scans of an interrupted run.

    Attributes:
        result: what ``drift.json`` says, None where there is no reference.

    Example:
        >>> from ignite.engine import Engine
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> handler = DriftHandler(network, held_out=False)
        >>> engine = Engine(lambda engine, batch: [])
        >>> handler.attach(engine)
        >>> _ = engine.run([[]])
        >>> handler.result is None  # scans that were also fitted are no reference
        True
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

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._scans, self._facts = {}, {}
        for name, record in (self.finished.records if self.finished else {}).items():
            if summary := _list(record.get(PATCH_SUMMARY))[0]:
                self._scans[name] = summary

    def _update(self, engine: Engine) -> None:
        for scan in iteration_scans(engine):
            meta, summary = scan[CommonKeys.PRED].meta, scan[PATCH_SUMMARY]
            facts = json.loads(meta["facts"]) if meta.get("facts") else None
            if facts:
                self._facts[meta["name"]] = facts
            if first := _list(summary)[0]:
                self._scans[meta["name"]] = first
            if self.output_dir is not None:
                scan["warning"] = self._warn(summary, facts, json.loads(meta.get("notes") or "[]"))

    def _warn(self, summary: Summary | list[Summary], facts: dict[str, Any] | None, notes: Sequence[str]) -> str | None:
        """What a user should know of one scan, as sentences; None where there is nothing to say."""
        clauses = self.network.kind.compare(facts) if facts else []
        clauses = [*self._judge(summary), *clauses]
        sentences = list(notes)
        if clauses:
            sentences.insert(0, f"this scan is unlike those that were fitted, do not rely on it: {'; '.join(clauses)}")
        return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) or None

    def _judge(self, summary: Summary | list[Summary]) -> list[str]:
        """How the patches of a scan, or those of each of its sequences, lie off the fitted ones."""
        if not isinstance(summary, list):
            off = _compare(self.network.drift, summary)
            return [off] if off else []
        network = cast(SequenceNet, self.network)
        compared = {name: _compare(network[i].drift, summary[i]) for i, name in enumerate(network.names)}
        return [f"of {name} {off}" for name, off in compared.items() if off]

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
            remove_file(path)  # an earlier run's


def _list(summary: Summary | list[Summary]) -> list[Summary]:
    """What is known of each sequence of a scan."""
    return summary if isinstance(summary, list) else [summary]


def _compare(reference: DriftReference, summary: Summary) -> str | None:
    if not summary:
        return None
    return reference.judge(torch.tensor(summary["profile"]), torch.tensor(summary["usage"]))
