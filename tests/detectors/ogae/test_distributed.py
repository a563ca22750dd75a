# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Two processes take the same steps and end with one detector, also where one has fewer rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = """
import sys
import torch
import torch.distributed as dist
from monai_dpmm_ad.detectors import OCSVMGuidedDetector

folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
x = torch.load(f"{folder}/x.pt")
detector = OCSVMGuidedDetector(6, latent_dim=3, width=8, step_rows=64, num_latents=100)
detector.initialize({"patches": x}, len(x))
own = x[: len(x) // 4] if rank else x[len(x) // 4 :]
for rows in (own, own[:40], own[:0] if rank else own):
    detector.fit_batch({"patches": rows}, len(x))
detector.finish_epoch(lambda: {"patches": x})
torch.save(detector.state_dict(), f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_end_with_one_detector(tmp_path: Path) -> None:
    torch.save(torch.randn(400, 1, 6, generator=torch.Generator().manual_seed(0)), tmp_path / "x.pt")
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    for name, expected in first.items():
        torch.testing.assert_close(second[name], expected, atol=0, rtol=0)
