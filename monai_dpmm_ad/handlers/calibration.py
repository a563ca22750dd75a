# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Calibrate a network on the maps of held-out healthy scans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor

from monai_dpmm_ad.data.covariates import read_person
from monai_dpmm_ad.engines import ScanEvaluator, iteration_scans
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.network import AnomalyNet, SequenceNet
from monai_dpmm_ad.normative import REGION_THRESHOLD, measure_regions
from monai_dpmm_ad.ops.pooling import pool_image_score
from monai_dpmm_ad.ops.subsets import list_subsets
from monai_dpmm_ad.transforms.score import choose_pooling
from monai_dpmm_ad.transforms.sequences import sum_maps
from monai_dpmm_ad.utils.distributed import gather_lists

__all__ = ["CalibrationHandler", "SubsetCalibrationHandler"]


class CalibrationHandler:
    """Feed every scan that an evaluator finished to the network's calibration, and close it at the end.

    Attach it to an evaluator whose postprocessing brings ``pred`` to native space and scores it. Voxels that a
    ``label`` marks as abnormal are left out, of the scan's score as well. A scan's ``regions`` count where the
    calibration has regions. Where maps are judged by place, the flagged regions of each scan go to the network's
    calibration of regions.

    Args:
        network: its ``calibration`` and ``regions`` are filled.
        held_out: False where the scans were also fitted, so that the rates are optimistic.
        pooling: how a map becomes a score, see :class:`~monai_dpmm_ad.transforms.score.ScoreScand`.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai.data import MetaTensor
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> maps = [MetaTensor(torch.rand(1, 8, 8), meta={"name": name}) for name in ("a", "b", "c")]
        >>> scans = [[{"pred": anomaly_map, "score": 0.5}] for anomaly_map in maps]
        >>> engine = Engine(lambda engine, batch: batch)
        >>> engine.failures = []
        >>> CalibrationHandler(network).attach(engine)
        >>> _ = engine.run(scans)
        >>> int(network.calibration.num_scans)
        3
    """

    def __init__(self, network: AnomalyNet | SequenceNet, held_out: bool = True, pooling: str = "auto") -> None:
        self.network = network
        self.held_out = held_out
        self.pooling = pooling
        #: groups and sequences of the maps that this process saw
        self._seen: set[tuple[str | None, str]] = set()

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        for group in self._groups():
            self.network.judge_of(group).calibration.reset()
        self._seen = set()

    def _groups(self) -> list[str | None]:
        """None, which stands for all people, and the names of groups."""
        groups, design = self.network.groups, self.network.design
        return [None, *(groups.judges(design) if groups is not None and design is not None else ())]

    def _update(self, engine: Engine) -> None:
        # MONAI leaves in the batch what its evaluator does not know.
        for loaded, scan in zip(cast(list[dict[str, Any]], engine.state.batch), iteration_scans(engine), strict=True):
            for present, anomaly_map, score in self.list_maps(scan):
                self._observe(present, anomaly_map, score, {**loaded, **scan})

    def list_maps(self, scan: dict[str, Any]) -> Iterator[tuple[str, Tensor, float]]:
        """The maps ``(1, *spatial)`` of a scan that are calibrated: of which sequences, the map, its score."""
        yield "1", scan[CommonKeys.PRED].as_subclass(Tensor), scan["score"]

    def _observe(self, present: str, anomaly_map: Tensor, score: float, scan: dict[str, Any]) -> None:
        foreground = anomaly_map > 0
        if scan.get(CommonKeys.LABEL) is not None:
            foreground &= ~(scan[CommonKeys.LABEL].as_subclass(Tensor) > 0)
            score = self._pool(anomaly_map, foreground, scan)
        meta = scan[CommonKeys.PRED].meta
        regions = scan.get("regions") if self.network.calibration.num_regions else None
        group = self.network.find_group(read_person(meta))
        groups = [None] if group is None else [None, group]
        judges = [self.network.judge_of(name) for name in groups]
        self._seen.update((name, present) for name in groups)
        for judge in judges:
            judge.calibration.of(present).update(anomaly_map, foreground, score, meta["name"], regions)
        if self.network.normative is not None:
            healthy = np.where(foreground[0].cpu(), anomaly_map[0].cpu(), 0)
            _, peaks, _ = measure_regions(healthy, REGION_THRESHOLD)
            for judge in judges:
                judge.regions.of(present).update(meta["name"], peaks)

    def _pool(self, anomaly_map: Tensor, inside: Tensor, scan: dict[str, Any]) -> float:
        """The score of a map ``(1, *spatial)`` by its voxels inside, 0 where there is none."""
        return float(pool_image_score(anomaly_map, inside, choose_pooling(self.pooling, scan)))

    def _finish(self, engine: ScanEvaluator) -> None:
        failures = gather_lists(engine.failures)
        engine.failures[:] = failures
        if failures and len(failures) == sum(gather_lists([engine.state.iteration])):
            failure = failures[0]
            raise ScanError(failure.path, f"{failure.reason} (no held-out scan could be mapped)")
        self.close(set(gather_lists(list(self._seen))))

    def close(self, seen: set[tuple[str | None, str]]) -> None:
        """Turn what was observed into calibrations.

        Args:
            seen: which groups and which sequences the maps of all processes were of.
        """
        for group, present in sorted(seen | {(None, self.network.calibration.whole)}, key=str):
            judge = self.network.judge_of(group)
            judge.calibration.of(present).finish(held_out=self.held_out)
            if self.network.normative is not None:
                judge.regions.of(present).finish(held_out=self.held_out)


class SubsetCalibrationHandler(CalibrationHandler):
    """Calibrate a network of several sequences for every choice of them that the held-out healthy scans have.

    The evaluator's postprocessing leaves ``pred`` as it is: one finished map for each sequence, in native space.

    Args:
        network: its ``calibration`` and ``regions`` are filled.
        held_out: as for :class:`CalibrationHandler`.
        pooling: as there.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_dpmm_ad import AnomalyNet, SequenceNet, create_detector, create_embedder
        >>> embedder = create_embedder("pixels-8")
        >>> networks = [AnomalyNet(embedder, create_detector("dpmm", 64), normative="off") for _ in range(2)]
        >>> network = SequenceNet(["T1", "FLAIR"], networks)
        >>> maps = [MetaTensor(torch.rand(2, 8, 8), meta={"name": name, "present": "11"}) for name in ("a", "b", "c")]
        >>> engine = Engine(lambda engine, batch: batch)
        >>> engine.failures = []
        >>> SubsetCalibrationHandler(network).attach(engine)
        >>> _ = engine.run([[{"pred": anomaly_map}] for anomaly_map in maps])
        >>> [int(network.calibration.of(present).num_scans) for present in ("11", "10", "01")]
        [3, 3, 3]
    """

    network: SequenceNet

    def list_maps(self, scan: dict[str, Any]) -> Iterator[tuple[str, Tensor, float]]:
        """The sum of the maps of each choice among the sequences that a scan has."""
        maps, has = scan[CommonKeys.PRED].as_subclass(Tensor), scan[CommonKeys.PRED].meta["present"]
        for present in list_subsets(len(has)):
            if all(there == "1" for wanted, there in zip(present, has, strict=True) if wanted == "1"):
                summed = sum_maps(maps, self.network.scales, present)
                yield present, summed, self._pool(summed, summed > 0, scan)

    def close(self, seen: set[tuple[str | None, str]]) -> None:
        """As there.

        Raises:
            ScanError: no held-out scan has all sequences.
        """
        if (None, self.network.calibration.whole) not in seen:
            names = ", ".join(self.network.names)
            raise ScanError("--held-out", f"has no healthy scan with all of {names}, so that nothing can be calibrated")
        super().close(seen)
