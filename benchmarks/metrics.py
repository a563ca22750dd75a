# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Speed and memory of the pixel metrics on volumes of 182×218×182, against scikit-learn's ``roc_auc_score``.

    OMP_NUM_THREADS=2 python benchmarks/metrics.py [--volumes 500]

Volumes are made from a few templates, one at a time, outside the clock; with fewer than 500 the time for 500 is
extrapolated linearly (each volume costs the same). scikit-learn gets one whole volume. Times are CPU times, which
other processes on the machine disturb little. Prints a table and, as the last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from monai_dpmm_ad.metrics import AnomalyMetrics

SHAPE = (182, 218, 182)
TARGET = 500


def make_templates(number: int = 3) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Make maps, masks and foregrounds: a head of a third of the field, scores of a patch grid, five lesions."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) / 0.85 for n in SHAPE]
    foreground = sum(np.meshgrid(*(a**2 for a in axes), indexing="ij", sparse=True)) < 1
    out = []
    for _ in range(number):
        mask = np.zeros(SHAPE, bool)
        for _ in range(5):
            corner = rng.integers(60, 110, 3)
            mask[tuple(slice(c, c + int(s)) for c, s in zip(corner, rng.integers(4, 16, 3), strict=True))] = True
        mask &= foreground
        grid = rng.beta(4, 20, tuple(n // 14 + 1 for n in SHAPE)).astype(np.float32)
        zoom = [n / g for n, g in zip(SHAPE, grid.shape, strict=True)]
        scores = ndimage.zoom(grid, zoom, order=1, mode="grid-constant", grid_mode=True)
        scores = scores + np.float32(0.1) * mask
        out.append((np.where(foreground, scores, 0).astype(np.float32), mask, foreground))
    return out


def peak_gib() -> float:
    """Highest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def time_updates(metrics: AnomalyMetrics, templates: list, number: int) -> float:
    """Feed ``number`` volumes, each different, and return the CPU seconds spent in ``update``."""
    rng, total = np.random.default_rng(1), 0.0
    for i in range(number):
        scores, mask, foreground = templates[i % len(templates)]
        scores = scores * np.float32(rng.uniform(0.8, 1.2))
        start = time.process_time()
        metrics.update(f"{i:04d}", scores, mask if i % 2 else None, foreground, float(i), abnormal=i % 2)
        total += time.process_time() - start
    return total


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=24, help=f"volumes to evaluate, {TARGET} for all")
    number = parser.parse_args().volumes
    templates, pixels = make_templates(), int(np.prod(SHAPE))
    before = peak_gib()

    streaming = AnomalyMetrics(froc=False)
    update = time_updates(streaming, templates, number)
    start = time.process_time()
    figures = streaming.compute(bootstrap=0)
    compute = time.process_time() - start
    start = time.process_time()
    streaming.compute(bootstrap=1000)
    intervals = time.process_time() - start
    memory = peak_gib()

    with_froc = time_updates(AnomalyMetrics(), templates, 3) / 3
    exact = AnomalyMetrics(exact=True, froc=False)
    exact_update = time_updates(exact, templates, 2) / 2
    reference = AnomalyMetrics(froc=False)
    time_updates(reference, templates, 2)
    pair = [m.compute(bootstrap=0) for m in (exact, reference)]
    error = max(abs(pair[0][key] - pair[1][key]) for key in pair[0])

    scores, mask, _ = templates[0]
    start = time.process_time()
    roc_auc_score(mask.ravel(), scores.ravel())
    sklearn = (time.process_time() - start) / pixels

    ours = (update + compute) / number / pixels
    rows = [
        ("streaming: pixel AUROC, AUPR, best Dice, AUPRO, Dice at 3 rates, whole + foreground", ours, update / number),
        ("the same, exact", exact_update / pixels, exact_update),
        ("the same, streaming, with FROC", with_froc / pixels, with_froc),
        ("scikit-learn roc_auc_score, AUROC alone, whole", sklearn, sklearn * pixels),
    ]
    print(f"{'what':86} ns/pixel  s/volume  ratio to scikit-learn")
    for what, per_pixel, per_volume in rows:
        print(f"{what:86} {per_pixel * 1e9:8.1f} {per_volume:9.3f} {sklearn / per_pixel:9.1f}x")
    how = "measured" if number >= TARGET else f"extrapolated from {number}"
    print(f"{TARGET} volumes: {update / number * TARGET + compute:.0f} s ({how}), compute {compute:.1f} s, ", end="")
    print(f"1000 bootstrap replicates {intervals:.1f} s (at {number} volumes)")
    print(f"peak memory {memory:.2f} GiB after {number} volumes ({before:.2f} before the first, templates included)")
    print(f"largest difference between exact and streaming: {error:.1e}")
    result = {
        "volumes": number,
        "ns_per_pixel": ours * 1e9,
        "speedup_over_sklearn": sklearn / ours,
        "peak_gib": memory,
        "compute_s": compute,
        "bootstrap_s": intervals,
        "froc_s_per_volume": with_froc - update / number,
        "max_error": error,
        "pixel_auroc": figures["pixel_auroc"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
