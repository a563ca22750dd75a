# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What of a held-out scan a calibration takes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_dpmm_ad import (
    AnomalyNet,
    CalibrationHandler,
    SequenceNet,
    SubsetCalibrationHandler,
    create_detector,
    create_embedder,
)


def _make_network() -> AnomalyNet:
    return AnomalyNet(create_embedder("pixels-8"), create_detector("dpmm", 64), image_size=64, normative="off")


def _calibrate(handler: CalibrationHandler, scans: list[dict[str, Any]]) -> None:
    engine: Any = Engine(lambda engine, batch: batch)
    engine.failures = []
    handler.attach(engine)
    engine.run([[scan] for scan in scans])


@pytest.mark.parametrize("sequences", [1, 2])
def test_what_a_label_marks_has_no_part_in_the_scores_of_healthy_scans(sequences: int) -> None:
    rng, scans = np.random.default_rng(0), []
    for number in range(9):
        values, lesion = (
            torch.from_numpy(rng.uniform(1, 2, (sequences, 20, 20)).astype(np.float32)),
            np.zeros((1, 20, 20)),
        )
        values[:, :4, :4] = 50.0
        lesion[0, :4, :4] = 1
        pred = MetaTensor(values, meta={"name": str(number), "present": "1" * sequences})
        scans.append({"pred": pred, "label": MetaTensor(torch.from_numpy(lesion)), "score": 50.0})
    network: Any = _make_network() if sequences == 1 else SequenceNet(["T1", "T2"], [_make_network(), _make_network()])
    _calibrate((CalibrationHandler if sequences == 1 else SubsetCalibrationHandler)(network), scans)
    assert network.calibration.threshold(0.2) < 2 * sequences
    assert network.calibration.p_value(2.1 * sequences) == 1 / 10
