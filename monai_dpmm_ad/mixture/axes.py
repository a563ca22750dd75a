# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Axes that all components share, along which their covariances are diagonal: estimated from the sample to start from.

Components that are diagonal on the embedding's own axes throw most of the density away. With y = A (x − mean) they are

    log p(x | k) = log |det A| + Σ_d log N(y_d | μ_kd, 1/λ_kd)

A starts as what whitens the pooled covariance within clusters, its optimum if all components had one covariance. Steps
along the relative gradient then make the components' own covariances as diagonal as one A can: semi-tied covariances.
Given A the model is that of diagonal components, so the inference and its ELBO stay as they are; A is a point.

Reference:
    Gales 1999, Semi-tied covariance matrices for hidden Markov models, for the likelihood; Ablin, Cardoso and Gramfort
    2018, Faster independent component analysis by preconditioning with Hessian approximations, for the step: Gales's
    update inverts D matrices of D×D, this one costs a single product of (D, n) and (n, D).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.families.base import DataScale
from monai_dpmm_ad.mixture.initialise import seed_labels

__all__ = ["estimate_axes", "refine_axes", "whiten_within"]

ROUNDS = 2  # of clustering: the first in the data's own coordinates, the second along the axes that it gives
MAX_STEPS = 20
LEAST_GAIN = 0.02  # nats a datum: a step that gains less is the last
REFINED_ROWS = 100  # for each dimension: a step costs two products with so many rows
LEAST_CURVATURE = 0.1  # where all components have one shape, turning two axes against each other changes nothing
HALVINGS = 5
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
    centred = scale.to(sample.dtype).place(sample)
    turned = scale
    for _ in range(ROUNDS):
        labels = seed_labels(turned, sample, num_components, generator)
        residual = _take_residuals(centred, labels, num_components)
        turned = _turn(scale, centred, whiten_within(residual, labels, scale.variance))
    assert turned.axes is not None
    step = -(-len(sample) // (REFINED_ROWS * sample.shape[1]))
    return _turn(scale, centred, refine_axes(turned.axes, residual[::step], labels[::step]))


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


class _Clusters(NamedTuple):
    """Residuals along the present axes, (n, D), with the variances (K, D) of each cluster and what that is worth."""

    residual: Tensor
    variance: Tensor
    objective: float


def refine_axes(axes: Tensor, residual: Tensor, labels: Tensor) -> Tensor:
    """Turn axes so that log |det A| − ½ Σ_k p_k Σ_d log var_kd is largest, by quasi-Newton steps.

    With φ = λ_k ∘ y and E a small relative change, A ← (I + E) A, the slope is I − ⟨φ yᵀ⟩, and the curvature couples
    only E_ij with E_ji: h_ij = Σ_k p_k λ_ki var_kj.

    Args:
        axes: (D, D), float64, where to start.
        residual: (n, D), data less the centre of their cluster.
        labels: (n,), the clusters.

    Returns:
        (D, D), float64; a scaling of each axis is left as it is, since the components' variances take it up.
    """
    counts = torch.bincount(labels).double()
    share = counts / counts.sum()
    eye = torch.eye(len(axes), dtype=axes.dtype, device=axes.device)

    def measure(y: Tensor, turn: Tensor) -> _Clusters:
        squares = y.new_zeros(len(counts), y.shape[1]).index_add_(0, labels, y.square()).double()
        variance = (squares + PRIOR_SIZE) / (counts + PRIOR_SIZE)[:, None]
        volume = torch.linalg.slogdet(turn).logabsdet
        return _Clusters(y, variance, float(volume - 0.5 * (share @ variance.log()).sum()))

    turn = eye
    now = measure(residual @ axes.T.to(residual.dtype), turn)
    for _ in range(MAX_STEPS):
        step = _find_step(now, labels, share)
        for halving in range(HALVINGS):
            move = eye + 0.5**halving * step
            moved = measure(now.residual @ move.T.to(residual.dtype), move @ turn)
            if moved.objective > now.objective:
                break
        else:
            break
        gain = moved.objective - now.objective
        turn, now = move @ turn, moved
        if gain < LEAST_GAIN:
            break
    return turn @ axes


def _find_step(now: _Clusters, labels: Tensor, share: Tensor) -> Tensor:
    """The quasi-Newton step E, (D, D), zero on its diagonal."""
    precision = 1.0 / now.variance
    pull = now.residual * precision.to(now.residual.dtype)[labels]
    slope = (pull.T @ now.residual).double() / len(labels)
    curvature = (precision * share[:, None]).T @ now.variance
    determinant = (curvature * curvature.T - 1.0).clamp(min=LEAST_CURVATURE)
    return ((slope.T - curvature.T * slope) / determinant).fill_diagonal_(0.0)


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
