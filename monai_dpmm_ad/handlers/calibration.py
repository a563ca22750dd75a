# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Calibrate a network on the maps of held-out healthy scans."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from monai_dpmm_ad.data.covariates import read_person
from monai_dpmm_ad.engines import ScanEvaluator, iteration_scans
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.groups import Judge
from monai_dpmm_ad.normative import REGION_THRESHOLD, measure_regions
from monai_dpmm_ad.utils.distributed import gather_lists

__all__ = ["CalibrationHandler"]


class CalibrationHandler:
    """Feed every scan that an evaluator finished to the network's calibration, and close it at the end.

    Attach it to an evaluator whose postprocessing brings ``pred`` to native space and scores it. Voxels that a
    ``label`` marks as abnormal are left out. A scan's ``regions`` count where the calibration has regions. Where
    maps are judged by place, the flagged regions of each scan go to the network's calibration of regions. A scan of a
    person of a group counts there as well.

    Args:
        network: its ``calibration`` and ``regions`` are filled.
        held_out: False where the scans were also fitted, so that the rates are optimistic.

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

    def __init__(self, network: AnomalyNet, held_out: bool = True) -> None:
        self.network = network
        self.held_out = held_out

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        for judge in self._judges():
            judge.calibration.reset()

    def _judges(self) -> list[Judge]:
        """What all people are judged by, and what each group is."""
        groups, design = self.network.groups, self.network.design
        named = groups.judges(design) if groups is not None and design is not None else {}
        return [self.network.judge_of(None), *named.values()]

    def _update(self, engine: Engine) -> None:
        # MONAI leaves in the batch what its evaluator does not know.
        for loaded, scan in zip(cast(list[dict[str, Any]], engine.state.batch), iteration_scans(engine), strict=True):
            anomaly_map = scan[CommonKeys.PRED].as_subclass(torch.Tensor)
            foreground = anomaly_map > 0
            if scan.get(CommonKeys.LABEL) is not None:
                foreground &= ~(scan[CommonKeys.LABEL].as_subclass(torch.Tensor) > 0)
            regions = loaded.get("regions") if self.network.calibration.num_regions else None
            meta = scan[CommonKeys.PRED].meta
            group = self.network.find_group(read_person(meta))
            judges = [self.network.judge_of(name) for name in ([None] if group is None else [None, group])]
            for judge in judges:
                judge.calibration.update(anomaly_map, foreground, scan["score"], meta["name"], regions)
            if self.network.normative is not None:
                healthy = np.where(foreground[0].cpu(), anomaly_map[0].cpu(), 0)
                _, peaks, _ = measure_regions(healthy, REGION_THRESHOLD)
                for judge in judges:
                    judge.regions.update(meta["name"], peaks)

    def _finish(self, engine: ScanEvaluator) -> None:
        failures = gather_lists(engine.failures)
        engine.failures[:] = failures
        if failures and len(failures) == sum(gather_lists([engine.state.iteration])):
            failure = failures[0]
            raise ScanError(failure.path, f"{failure.reason} (no held-out scan could be mapped)")
        for judge in self._judges():
            judge.calibration.finish(held_out=self.held_out)
            if self.network.normative is not None:
                judge.regions.finish(held_out=self.held_out)
