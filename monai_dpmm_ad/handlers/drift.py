# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Tell whether each scan, and the cohort, comes from the population that was fitted."""

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
from monai_dpmm_ad.normative import Frame
from monai_dpmm_ad.transforms.skull import SKULL, is_head, warn_of_heads
from monai_dpmm_ad.utils.distributed import gather_lists, get_rank
from monai_dpmm_ad.utils.files import remove_file, write_json

__all__ = ["DriftHandler"]


#: Of what has no place in a bundle whose maps are judged by it.
_PLACELESS = "it is a single slice, which has no place among the fitted volumes"
#: What is known of the patches of a scan; None where nothing was asked or seen.
Summary = dict[str, list[float]] | None


class DriftHandler:
    """Fill a network's drift reference with the calibration's scans, or compare scans and the cohort with it.

    A scan that lies off by more than healthy ones do, by its patches or by its finished map, or is of another kind
    (modality, voxel sizes, …), gets a ``warning`` in its output, and its ``in_range`` is False there: its p-values and
    its number of false regions are not promised. None says that nothing is known of what was fitted.

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
        self._own: dict[str, list[float]] = {}
        self._heads: list[str] = []

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._scans, self._facts, self._own, self._heads = {}, {}, {}, []
        for name, record in (self.finished.records if self.finished else {}).items():
            if summary := _list(record.get(PATCH_SUMMARY))[0]:
                self._scans[name] = summary

    def _update(self, engine: Engine) -> None:
        for scan in iteration_scans(engine):
            meta, summary = scan[CommonKeys.PRED].meta, scan[PATCH_SUMMARY]
            facts = json.loads(meta["facts"]) if meta.get("facts") else None
            if facts and str(meta.get("present")).startswith("0"):
                facts["sizes"] = [0.0] * len(facts["sizes"])  # unknown: what was fitted lies on the first one's grid
            if facts:
                self._facts[meta["name"]] = facts
            if first := _list(summary)[0]:
                self._scans[meta["name"]] = first
            if is_head(scan[CommonKeys.PRED]):
                self._heads.append(meta["name"])
            frame = scan.get("frame")
            own = None
            if frame is not None and frame.kind != "none":
                finished = scan[CommonKeys.PRED]
                own = self._own[meta["name"]] = self.network.range.describe(
                    finished.as_subclass(torch.Tensor)[0], _of(frame), finished.pixdim.tolist()
                )
            if self.output_dir is not None:
                clauses = self._compare(summary, facts, own, meta.get(SKULL))
                scan["warning"] = _write_warning(clauses, json.loads(meta.get("notes") or "[]"))
                known = int(self.network.kind.num_scans) or int(self.network.drift.num_scans)
                scan["in_range"] = False if clauses else True if known else None

    def _compare(
        self,
        summary: Summary | list[Summary],
        facts: dict[str, Any] | None,
        own: list[float] | None,
        skull: str | None,
    ) -> list[str]:
        """In what a scan lies outside of what was fitted, as clauses; no healthy scan's rim was found by the frame."""
        network = self.network
        found = [
            *self._compare_patches(summary),
            network.range.judge(own) if own else _PLACELESS if network.normative is not None else None,
            *(network.kind.compare(facts) if facts else ()),
            skull,
        ]
        return [clause for clause in found if clause]

    def _compare_patches(self, summary: Summary | list[Summary]) -> list[str]:
        """How the patches of a scan, or those of each of its sequences, lie off the fitted ones."""
        if not isinstance(summary, list):
            off = _judge(self.network.drift, summary)
            return [off] if off else []
        network = cast(SequenceNet, self.network)
        compared = {name: _judge(network[i].drift, summary[i]) for i, name in enumerate(network.names)}
        return [f"of {name} {off}" for name, off in compared.items() if off]

    def _finish(self, engine: Engine) -> None:
        scans: Mapping[str, Any] = dict(sorted(gather_lists(list(self._scans.items()))))
        profiles = torch.tensor([scan["profile"] for scan in scans.values()])
        usage = torch.tensor([scan["usage"] for scan in scans.values()])
        reference = self.network.drift
        if self.output_dir is None:
            heads = gather_lists(self._heads)
            if get_rank() == 0:
                warn_of_heads(heads)
            facts = dict(sorted(gather_lists(list(self._facts.items()))))
            self.network.kind.fit(list(facts.values()))
            if scans and self.held_out:
                reference.fit(profiles, usage)
            if self.held_out:
                self.network.range.fit([own for _, own in sorted(gather_lists(list(self._own.items())))])
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


def _judge(reference: DriftReference, summary: Summary) -> str | None:
    if not summary:
        return None
    return reference.judge(torch.tensor(summary["profile"]), torch.tensor(summary["usage"]))


def _of(frame: Frame) -> float | None:
    """Quality of a frame's registration, None where nothing was registered."""
    quality: float | None = frame.to_dict()["quality"]
    return quality


def _write_warning(clauses: Sequence[str], notes: Sequence[str]) -> str | None:
    """What a user should know of one scan, as sentences; None where there is nothing to say."""
    sentences = list(notes)
    if clauses:
        sentences = [
            f"this scan is unlike those that were fitted, do not rely on it: {'; '.join(clauses)}",
            "its p-values and the number of false regions are not promised; fit healthy scans of this kind, or of "
            "another scanner give a few to fit --update BUNDLE --site NAME",
            *sentences,
        ]
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) or None
