# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What ``benchmarks/mixture.py`` compares: fits of ours, scikit-learn's and the plain one, FAISS's assignment.

A fit is a generator; a step gives what scores held-out rows by the state that it ends in.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.initialise import compute_data_scale, draw_sample
from monai_dpmm_ad.ops.kmeans import fit_kmeans

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from reference.mixture_gaussian import OnlineMAPEM

BATCH = 1024
clock = time.process_time


def measure(run: Callable[[], object], repeats: int = 3) -> float:
    """The least CPU seconds of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        run()
        best = min(best, clock() - start)
    return best


def measure_faiss(x: Tensor, num_components: int) -> float | None:
    """Rows a second that FAISS assigns to their nearest of K centres, the practical floor; None where it is missing."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x[:num_components].numpy())
    return len(x) / measure(lambda: index.search(x.numpy(), 1))


def follow_mixture(train: Tensor, num_components: int, inference: str) -> Iterator[Callable[[Tensor], float]]:
    """Our mixture, several times an epoch; natural merges and splits after each, pyro is Pyro's SVI and no more."""
    mixture = DirichletProcessMixture(num_components, train.shape[1], inference=inference)
    generator = torch.Generator().manual_seed(0)
    sample, num_data = draw_sample(train.split(BATCH), mixture.sample_size, generator)
    mixture.initialize(sample, num_data)

    def score(x: Tensor) -> float:
        return float(mixture.log_prob(x).mean())

    while True:
        for index, rows in enumerate(train.split(BATCH)):
            mixture.partial_fit(rows, num_data)
            if index % 20 == 19:
                yield score
        if inference == "natural":
            mixture.adapt(sample)
        yield score


def follow_sklearn(train: Tensor, num_components: int) -> Iterator[Callable[[Tensor], float]]:
    """scikit-learn's batch variational mixture with its own k-means start, one iteration at a time."""
    from sklearn.mixture import BayesianGaussianMixture
    from sklearn.mixture._gaussian_mixture import _estimate_log_gaussian_prob

    peer = BayesianGaussianMixture(
        n_components=num_components, covariance_type="diag", max_iter=1, warm_start=True, random_state=0
    )
    data = train.double().numpy()

    def score(x: Tensor) -> float:
        log_prob = _estimate_log_gaussian_prob(x.double().numpy(), peer.means_, peer.precisions_cholesky_, "diag")
        return float(np.logaddexp.reduce(log_prob + np.log(peer.weights_), axis=1).mean())

    while True:
        peer.fit(data)
        yield score


def follow_oracle(train: Tensor, num_components: int) -> Iterator[Callable[[Tensor], float]]:
    """The paper's online MAP-EM with N×K×D tensors, from the same k-means++ sample."""
    centres = fit_kmeans(train[:20_000], num_components, torch.Generator().manual_seed(0)).centres
    oracle = OnlineMAPEM(centres, compute_data_scale(train).variance.float())

    def score(x: Tensor) -> float:
        return float(oracle.log_prob(x).mean())

    while True:
        for rows in train.split(BATCH):
            for part in rows.split(256):
                oracle.partial_fit(part)
            yield score
