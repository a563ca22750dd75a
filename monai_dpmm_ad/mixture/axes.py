# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Axes that all components share, along which their covariances are diagonal: estimated from the sample to start from.

Components that are diagonal on the embedding's own axes throw most of the density away. With y = A (x − mean) they are

    log p(x | k) = log |det A| + Σ_d log N(y_d | μ_kd, 1/λ_kd)

A starts as what whitens the pooled covariance within clusters, its optimum if all components had one covariance. Steps
along the relative gradient then make the components' own covariances as diagonal as one A can: semi-tied covariances.
Rows that had no part in it decide how far that goes, and whether the embedding's own axes are better. Given A the model
is that of diagonal components, so the inference and its ELBO stay as they are; A is a point.

Reference:
    Gales 1999, Semi-tied covariance matrices for hidden Markov models, for the likelihood; Ablin, Cardoso and Gramfort
    2018, Faster independent component analysis by preconditioning with Hessian approximations, for the steps: Gales's
    update inverts D matrices of D×D, one of these costs a product of (D, n) and (n, D) and one of (n, D) and (D, D).
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import DataScale
from monai_dpmm_ad.mixture.initialise import seed_labels
from monai_dpmm_ad.ops.precision import supports_bfloat16

__all__ = ["estimate_axes", "refine_axes", "whiten_within"]

ROUNDS = 2  # of clustering: the first in the data's own coordinates, the second along the axes that it gives
FIRST_CLUSTERS = 256  # at most, in the first
MAX_STEPS = 20
LEAST_GAIN = 0.002  # nats a datum: a step that would gain less is not taken
PATIENCE = 3  # steps that the judges find no better
JUDGES = 5  # every fifth row of the sample judges the axes that the others give
REFINED_ROWS = 50  # for each dimension, of the sample: a step costs two products with so many rows
LEAST_CURVATURE = 0.1  # eigenvalue: where all components have one shape, turning two axes against each other is free
TRIES = 6
LEAST_SHARE_OF_RISE = 0.1  # that a step gains, or a shorter one is tried
MEMORY = 7  # steps that the next one is learnt from
PRIOR_SIZE = 2.0  # pseudo-data of unit variance in every cluster's variances
LEAST_EIGENVALUE = 1e-3  # of the mean one: directions that hardly vary within clusters must not dominate the density
LEAST_SPREAD = 1e-6  # of the data's mean variance: clusters of duplicates have no covariance
LEAST_VARIANCE = 1e-3  # along an axis, of what it would be if dimensions were independent, as `compute_data_scale` has


def estimate_axes(scale: DataScale, sample: Tensor, num_components: int, generator: torch.Generator) -> DataScale:
    """Estimate the axes from clusters of a sample.

    Args:
        scale: of the sample, without axes.
        sample: (n, D), drawn over the whole data set.
        num_components: K.
        generator: the source of randomness, a CPU generator.

    Returns:
        the scale with axes, its variance along them.
    """
    sample = sample[:: -(-len(sample) // (REFINED_ROWS * sample.shape[1]))]
    centred = scale.to(sample.dtype).place(sample)
    turned = scale
    for number in range(ROUNDS):
        num_clusters = min(num_components, num_components if number else FIRST_CLUSTERS)
        labels = seed_labels(turned, sample, num_clusters, generator)
        residual = _take_residuals(centred, labels, num_clusters)
        learning = ~_judge(labels)
        turned = _turn(scale, centred, whiten_within(residual[learning], labels[learning], scale.variance))
    assert turned.axes is not None
    spread = residual.square().mean(0, dtype=torch.float64).clamp(min=LEAST_SPREAD * scale.variance.mean()).sqrt()
    starts = [turned.axes, torch.diag(1.0 / spread)]
    best = max(starts, key=lambda axes: _start(axes, residual, labels).judged)
    return _turn(scale, centred, refine_axes(best, residual, labels))


def whiten_within(residual: Tensor, labels: Tensor, variance: Tensor) -> Tensor:
    """Compute axes along which the pooled covariance within clusters is the identity.

    The covariance is shrunk towards that of independent dimensions, of the data's own proportions, as if D data more
    had been seen: a few thousand patches do not determine D²/2 numbers.

    Args:
        residual: (n, D), data less the centre of their cluster.
        labels: (n,), the clusters.
        variance: (D,), of the data, float64.

    Returns:
        (D, D), float64.
    """
    num_data, dim = residual.shape
    scatter = (residual.T @ residual).double()
    degrees = max(num_data - int(labels.unique().numel()), 1)
    share = scatter.diagonal().sum() / degrees / variance.sum()
    covariance = (scatter + dim * share * torch.diag(variance)) / (degrees + dim)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=LEAST_EIGENVALUE * values.mean()).clamp(min=LEAST_SPREAD * variance.mean())
    return (vectors / values.sqrt()).T.contiguous()


def refine_axes(axes: Tensor, residual: Tensor, labels: Tensor) -> Tensor:
    """Turn axes so that log |det A| − ½ Σ_k p_k Σ_d log var_kd is largest, by quasi-Newton steps.

    With φ = λ_k ∘ y and E a small relative change, A ← (I + E) A, the slope is I − ⟨φ yᵀ⟩, and the curvature couples
    only E_ij with E_ji: h_ij = Σ_k p_k λ_ki var_kj. What that leaves out is learnt from the last steps (L-BFGS). D²
    numbers fit the rows better that they were learnt from: so every fifth row judges, and of the axes on the way those
    are taken that they find best.

    Args:
        axes: (D, D), float64, where to start.
        residual: (n, D), data less the centre of their cluster.
        labels: (n,), the clusters.

    Returns:
        (D, D), float64; a scaling of each axis is left as it is, since the components' variances take it up.
    """
    now = best = _start(axes, residual, labels)
    slope, past, waited = now.find_slope(), _Past(), 0
    for _ in range(MAX_STEPS):
        step = past.find_step(slope, now)
        rise = _dot(step, slope)  # twice what the step gains where the objective is a parabola
        moved, share = _search(now, step, rise) if rise > 2 * LEAST_GAIN else (None, 0.0)
        if moved is None:
            break
        now = moved
        waited = 0 if now.judged > best.judged else waited + 1
        best = best if waited else now
        if waited == PATIENCE:
            break
        turned = now.find_slope()
        past.learn(share * step, slope - turned)
        slope = turned
    return best.axes


def _search(now: _Clusters, step: Tensor, rise: float) -> tuple[_Clusters | None, float]:
    """Take a step, or as much of it as gains, by the tops of parabolas.

    Args:
        now: the clusters before.
        step: (D, D).
        rise: the slope of the objective along it.

    Returns:
        the clusters after it, None where nothing gains, and the share that was taken.
    """
    short = step.to(_product_dtype(now.y))  # what is rounded is the change alone
    change = now.y.to(short.dtype) @ short.T
    turned = short.to(now.axes.dtype) @ now.axes
    share = 1.0
    for _ in range(TRIES):
        moved = _Clusters(now.axes + share * turned, torch.add(now.y, change, alpha=share), now.labels)
        gain = moved.objective - now.objective
        if gain > LEAST_SHARE_OF_RISE * share * rise:
            return moved, share
        share *= min(max(0.5 * share * rise / (share * rise - gain), 0.1), 0.5)
    return None, 0.0


class _Past:
    """The last steps s, (D, D) each, and by how much each let the slope fall, for the two loops of L-BFGS."""

    def __init__(self) -> None:
        self.steps: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=MEMORY)

    def learn(self, step: Tensor, fall: Tensor) -> None:
        """Keep a step; one along which the slope rose says nothing of a maximum."""
        product = _dot(step, fall)
        if product > 0:
            self.steps.append((step, fall, product))

    def find_step(self, slope: Tensor, clusters: _Clusters) -> Tensor:
        """The step (D, D) from a slope (D, D), zero on its diagonal."""
        shares = []
        for step, fall, product in reversed(self.steps):
            share = _dot(step, slope) / product
            slope = slope.sub(fall, alpha=share)
            shares.append(share)
        found = clusters.precondition(slope)
        for (step, fall, product), share in zip(self.steps, reversed(shares), strict=True):
            found.add_(step, alpha=share - _dot(fall, found) / product)
        return found


def _dot(one: Tensor, two: Tensor) -> float:
    return float(one.flatten() @ two.flatten())


def _judge(labels: Tensor) -> Tensor:
    """Which of the rows (n,) judge."""
    return torch.arange(len(labels), device=labels.device) % JUDGES == 0


def _start(axes: Tensor, residual: Tensor, labels: Tensor) -> _Clusters:
    """Clusters of residuals (n, D) along axes (D, D), those rows last that judge."""
    order = _judge(labels).sort(stable=True).indices
    return _Clusters(axes, residual[order] @ axes.T.to(residual.dtype), labels[order])


class _Clusters:
    """Clusters along axes (D, D): rows y (n, D) with labels (n,); the last fifth judges, the others tell variances."""

    def __init__(self, axes: Tensor, y: Tensor, labels: Tensor) -> None:
        num_learning = len(y) - -(-len(y) // JUDGES)
        self.axes, self.y, self.labels = axes, y, labels
        self.learning, self.known = y[:num_learning], labels[:num_learning]
        counts = torch.bincount(self.known, minlength=int(labels.max()) + 1).double()
        squares = y.new_zeros(len(counts), y.shape[1]).index_add_(0, self.known, self.learning.square()).double()
        self.share = counts / counts.sum()
        self.variance = (squares + PRIOR_SIZE) / (counts + PRIOR_SIZE)[:, None]  # (K, D)
        logs = self.variance.log().sum(1)
        volume = torch.linalg.slogdet(axes).logabsdet
        self.objective = float(volume - 0.5 * self.share @ logs)
        judging, cluster = y[num_learning:], labels[num_learning:]
        distance = (judging.square() / self.variance.to(y.dtype)[cluster]).sum(1, dtype=torch.float64)
        self.judged = float(volume - 0.5 * (logs[cluster] + distance).mean())

    def find_slope(self) -> Tensor:
        """The slope of the objective, (D, D), zero on its diagonal."""
        pull, dtype = self.learning * (1.0 / self.variance).to(self.y.dtype)[self.known], _product_dtype(self.y)
        mean = (pull.to(dtype).T @ self.learning.to(dtype)).to(self.y.dtype) / len(self.known)
        return -mean.fill_diagonal_(0.0)

    def precondition(self, slope: Tensor) -> Tensor:
        """The step (D, D) that the curvature of pairs of axes asks for, zero on its diagonal."""
        curvature = (((1.0 / self.variance) * self.share[:, None]).T @ self.variance).to(slope.dtype)
        least = 0.5 * (curvature + curvature.T - ((curvature - curvature.T).square() + 4.0).sqrt())  # eigenvalue
        curvature = curvature + (LEAST_CURVATURE - least).clamp(min=0.0)
        return ((curvature.T * slope - slope.T) / (curvature * curvature.T - 1.0)).fill_diagonal_(0.0)


def _product_dtype(rows: Tensor) -> torch.dtype:
    """What a step's products run in: a direction and a small change need no more than bfloat16, where that is fast."""
    return torch.bfloat16 if rows.dtype == torch.float32 and supports_bfloat16(rows.device) else rows.dtype


def _take_residuals(x: Tensor, labels: Tensor, num_clusters: int) -> Tensor:
    """Each row of x (n, D) less the mean of its cluster."""
    counts = torch.bincount(labels, minlength=num_clusters).clamp(min=1).to(x.dtype)
    means = x.new_zeros(num_clusters, x.shape[1]).index_add_(0, labels, x) / counts[:, None]
    return x - means[labels]


def _turn(scale: DataScale, centred: Tensor, axes: Tensor) -> DataScale:
    """The scale of centred data (n, D) along axes."""
    variance = (centred @ axes.T.to(centred.dtype)).square().mean(0, dtype=torch.float64)
    least = LEAST_VARIANCE * (axes.square() @ scale.variance)
    return DataScale(scale.mean, torch.maximum(variance, least), axes, torch.linalg.slogdet(axes).logabsdet)
