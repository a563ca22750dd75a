# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The allocator keeps freed memory where it is glibc's, and nobody else has told it what to do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers.regions import compute_regions
from monai_dpmm_ad.metrics import AnomalyMetrics
from monai_dpmm_ad.ops.histogram import COARSE, count_scores
from monai_dpmm_ad.ops.slabs import slab_bounds
from monai_dpmm_ad.transforms import LoadScan
from monai_dpmm_ad.utils.memory import available_memory, describe_shortage

SCRIPT = """
import resource
from monai_dpmm_ad.utils.memory import keep_heap
import torch
print(keep_heap())
def use():
    for _ in range(8):
        torch.empty(48 << 20, dtype=torch.uint8).fill_(1)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def run(**variables: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run([sys.executable, "-c", SCRIPT], env={**clean, **variables}, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@needs_glibc
def test_freed_memory_is_used_again() -> None:
    done, faults = run()
    assert done == "True"
    assert int(faults) < 25_000  # of 8 blocks of 12 288 pages


@needs_glibc
def test_what_the_environment_says_stays() -> None:
    done, faults = run(MALLOC_MMAP_THRESHOLD_="131072")
    assert done == "False"
    assert int(faults) > 90_000


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="needs Linux")
def test_the_memory_that_is_left_is_known() -> None:
    available = available_memory()
    assert available is not None
    assert 2**26 < available < 2**50
    assert describe_shortage(available // 8) is None


def test_a_volume_that_does_not_fit_is_refused_by_name_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    values = np.zeros((40, 50, 60), np.uint8)
    values[10:30, 10:30, 10:30] = np.random.default_rng(0).integers(1, 9, (20, 20, 20))
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    needed = 4 * 4 * values.size + 2**29
    monkeypatch.setattr("monai_dpmm_ad.utils.memory.available_memory", lambda: needed)
    assert LoadScan()(path).shape == (1, 40, 50, 60)
    monkeypatch.setattr("monai_dpmm_ad.utils.memory.available_memory", lambda: needed - 1)
    with pytest.raises(
        ScanError, match=r"a\.nii\.gz: needs about 0\.5 GiB of memory .* this machine has 0\.5 GiB left"
    ):
        LoadScan()(path)
    monkeypatch.setattr("monai_dpmm_ad.utils.memory.available_memory", lambda: None)
    assert LoadScan()(path).shape == (1, 40, 50, 60)


def test_what_is_done_piece_by_piece_is_what_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.gamma(3, 1, (9, 30, 20)).astype(np.float32))
    calibration = Calibration()
    calibration.update(scores, None, 1.0)
    calibration.finish()
    mask, affine = (scores > 6).numpy(), np.diag([1.0, 2.0, 3.0, 1.0])
    whole = calibration.percentile(scores), compute_regions(mask, scores.numpy(), affine).listed
    counted = count_scores(scores.numpy(), mask, COARSE)
    monkeypatch.setattr(slab_bounds, "__defaults__", (1,))
    assert torch.equal(calibration.percentile(scores), whole[0])
    turned = scores.permute(2, 0, 1)[None]  # as a map is that was brought back to the scan's own axes
    assert torch.equal(calibration.percentile(turned), whole[0].permute(2, 0, 1)[None])
    for one, two in zip(count_scores(scores.numpy(), mask, COARSE), counted, strict=True):
        np.testing.assert_array_equal(one, two)
    pieces = compute_regions(mask, scores.numpy(), affine).listed
    for key in ("first", "peak_voxel"):
        assert [getattr(region, key) for region in pieces] == [getattr(region, key) for region in whole[1]]
    for one, two in zip(pieces, whole[1], strict=True):
        assert one.mean_score == pytest.approx(two.mean_score, rel=1e-12)
        assert one.centroid == pytest.approx(two.centroid, rel=1e-12)
        assert (one.num_voxels, one.peak_score, one.last) == (two.num_voxels, two.peak_score, two.last)


def test_the_metrics_of_a_volume_take_a_few_times_its_memory() -> None:
    """Basins of int64, all at once, took more than twenty times as much."""
    noise = np.random.default_rng(0).random((128, 128, 130), dtype=np.float32)
    scores = ndimage.gaussian_filter(noise, 2)
    mask = np.zeros(scores.shape, bool)
    mask[30:40, 30:40, 30:40] = True
    tracemalloc.start()
    try:
        AnomalyMetrics().update("a", scores, mask, scores > 0, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5.5 * scores.nbytes
