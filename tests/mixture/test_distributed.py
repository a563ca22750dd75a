# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Two processes with half the data each give the posterior of one with all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monai_dpmm_ad.mixture import DirichletProcessMixture

WORKER = """
import sys
import torch
import torch.distributed as dist
from monai_dpmm_ad.mixture import DirichletProcessMixture

folder, rank, covariance, inference = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
x = torch.load(f"{folder}/x.pt")
batches = [batch[rank::2] for batch in x.split(60)]
mixture = DirichletProcessMixture(6, 5, covariance, inference)
mixture.fit(batches, len(x), sample=x[:150], max_epochs=3, tolerance=-1.0)
drawn = DirichletProcessMixture(6, 5, covariance, inference, sample_size=100)
drawn.fit(batches if rank else batches[:-2], max_epochs=1)  # one process has fewer batches, and there is no sample
torch.save({"state": mixture.state_dict(), "drawn": drawn.state_dict()}, f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("covariance", "inference"),
    [("diagonal", "natural"), ("rotated", "natural"), ("full", "natural"), ("diagonal", "memoized")],
)
def test_two_processes_agree_with_one(tmp_path: Path, covariance, inference, make_directions):
    x = make_directions(300, 5, 4).double()
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [
        subprocess.Popen([*command, str(rank), covariance, inference], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    alone = DirichletProcessMixture(6, 5, covariance, inference)
    alone.fit(x.split(60), 300, sample=x[:150], max_epochs=3, tolerance=-1.0)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, expected in alone.state_dict().items():
        for found in ranks:
            torch.testing.assert_close(found["state"][name], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ranks[0]["drawn"][name], ranks[1]["drawn"][name], rtol=1e-9, atol=1e-12)
    # The drawn fit knows its own size: 150 rows on one process, 90 on the other.
    assert ranks[0]["drawn"]["statistic_size"].item() == 240.0
