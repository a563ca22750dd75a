# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Two gloo processes equal one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.metrics import AnomalyMetrics

WORKER = """
import json, sys
import numpy as np
import torch, torch.distributed as dist
from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.metrics import AnomalyMetrics

rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
data = np.load(out + "/scans.npz")
metrics, calibration = AnomalyMetrics(), Calibration()
for i in range(rank, len(data["score"]), 2):
    metrics.update(f"scan{i:03d}", data["map"][i], data["mask"][i], data["map"][i] > 0, float(data["score"][i]))
    calibration.update(torch.from_numpy(data["map"][i]), None, float(data["score"][i]), name=f"scan{i:03d}")
figures = metrics.gather().compute(bootstrap=40)
calibration.finish()
result = {"figures": figures, "threshold": calibration.threshold(0.2), "p": calibration.p_value(0.31)}
with open(f"{out}/rank{rank}.json", "w") as file:
    json.dump(result, file)
dist.destroy_process_group()
"""


def test_two_processes_equal_one(make_scans, tmp_path: Path):
    scans = make_scans(9)
    arrays = {"map": [s["score_map"] for s in scans], "mask": [s["mask"] for s in scans]}
    np.savez(tmp_path / "scans.npz", score=[s["image_score"] for s in scans], **arrays)
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    root = str(Path(__file__).parents[2])
    workers = [
        subprocess.Popen([sys.executable, str(tmp_path / "worker.py"), str(rank), port, str(tmp_path)], cwd=root)
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    metrics, calibration = AnomalyMetrics(), Calibration()
    for i, scan in enumerate(scans):
        foreground = scan["score_map"] > 0
        metrics.update(f"scan{i:03d}", scan["score_map"], scan["mask"], foreground, scan["image_score"])
        calibration.update(torch.from_numpy(scan["score_map"]), None, scan["image_score"])
    calibration.finish()
    expected = metrics.compute(bootstrap=40)
    for rank in range(2):
        result = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert set(result["figures"]) == set(expected)
        for key, value in expected.items():
            assert result["figures"][key] == pytest.approx(value, abs=1e-6), key
        assert result["threshold"] == pytest.approx(calibration.threshold(0.2), abs=1e-6)
        assert result["p"] == calibration.p_value(0.31)


def test_gather_without_processes_is_the_object_itself(make_scans):
    metrics = AnomalyMetrics()
    metrics.update(**make_scans(1)[0])
    assert metrics.gather() is metrics
