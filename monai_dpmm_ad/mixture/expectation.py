# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The expectation step: the optimal q(z) of a batch, and the statistics that it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from monai_dpmm_ad.mixture.screening import (
    LEAST_SIZE_FIT,
    MARGIN,
    Candidates,
    compute_coarse,
    find_candidates,
    find_largest,
    make_screen,
)
from monai_dpmm_ad.mixture.statistics import Statistics
from monai_dpmm_ad.mixture.variational import Factors, Prior, normalise, weigh

__all__ = ["LocalStep", "label_rows", "measure_evidence", "measure_group_entropy", "run_local_step"]

NEGLIGIBLE = 1e-8  # responsibility below float32's rounding of the others


class LocalStep(NamedTuple):
    """What the expectation step finds in a batch.

    Args:
        statistics: expected statistics, not scaled.
        evidence: 0-dim float64, Σ_n log Σ_k exp(E[log π_k] + E[log p(y_n | θ_k)]), nats.
        group_entropy: (C,), H of the summed responsibilities of each group of components, nats; C = 0 unless asked.
    """

    statistics: Statistics
    evidence: Tensor
    group_entropy: Tensor

    def scale(self, factor: float | Tensor) -> LocalStep:
        """Multiply everything by a factor."""
        return LocalStep(self.statistics.scale(factor), self.evidence * factor, self.group_entropy * factor)


def run_local_step(
    prior: Prior,
    factors: Factors,
    x: Tensor,
    chunk_size: int,
    groups: Tensor | None = None,
    screened: bool = False,
) -> LocalStep:
    """Find the optimal q(z) of a batch and its expected statistics.

    Args:
        prior: priors and likelihood.
        factors: the global factors.
        x: (n, D).
        chunk_size: rows at a time; workspace is chunk × (F + K).
        groups: (C, K) bool, groups of components whose merge is to be measured; it needs all responsibilities.
        screened: leave out responsibilities below 1e-6 where that is faster: see `screening`.

    Returns:
        statistics, evidence and, for each group, the entropy of its joint assignment.
    """
    coefficients = weigh(factors, x.dtype)
    scale = prior.scale.to(x.dtype)
    workspace = x.new_empty(min(chunk_size, x.shape[0]), prior.family.num_written)
    screen = make_screen(coefficients, LEAST_SIZE_FIT) if screened and groups is None else None
    counts = torch.zeros_like(factors.log_weights)
    sums = counts.new_zeros(counts.shape[0], prior.family.num_features)
    evidence = torch.zeros_like(counts)
    group_entropy = counts.new_zeros(0 if groups is None else groups.shape[0])
    for rows in x.split(chunk_size) if x.shape[0] else ():
        features = workspace[: rows.shape[0]]
        prior.family.write_features(rows, scale, features)
        if screen is not None:
            found = find_candidates(screen, features, MARGIN)
            _add_candidates(found, features, counts, sums, evidence)
            if bool(found.complete.all()):
                continue
            features = features[~found.complete]
        resp, log_norm = normalise(prior.family.compute_log_prob(features, coefficients))
        evidence += resp.T @ log_norm
        counts += resp.sum(0)
        prior.family.sum_features(resp, features, sums)
        if groups is not None:
            group_entropy += _measure_groups(resp, groups)
    statistics = Statistics(counts, sums, torch.zeros_like(counts), torch.full_like(counts[0], x.shape[0]))
    # −Σ r log r = Σ r (evidence − log joint): no pass over r log r.
    likelihood = prior.family.compute_likelihood(statistics, factors.coefficients)
    entropy = evidence - counts * factors.log_weights - likelihood
    return LocalStep(statistics._replace(entropy=entropy), evidence.sum(), group_entropy)


def measure_group_entropy(prior: Prior, factors: Factors, x: Tensor, chunk_size: int, groups: Tensor) -> Tensor:
    """Compute the entropy of each group's joint assignment, as `run_local_step` does, and nothing else.

    Args:
        prior: priors and likelihood.
        factors: the global factors.
        x: (n, D).
        chunk_size: rows at a time.
        groups: (C, K) bool.

    Returns:
        (C,), nats, of these rows.
    """
    entropy = factors.log_weights.new_zeros(groups.shape[0])
    if not groups.shape[0]:
        return entropy
    members = groups.to(x.dtype).T.contiguous()
    for features, found, rest in _screen_rows(prior, factors, x, chunk_size):
        if found is not None:
            resp = normalise(found.log_prob)[0] * found.complete[:, None]
            joint = torch.zeros(len(features), members.shape[1], dtype=x.dtype, device=x.device)
            for place in range(resp.shape[1]):
                joint += resp[:, place, None] * members[found.component[:, place]]
            entropy += torch.special.entr(joint.clamp_(max=1.0)).sum(0, dtype=torch.float64)
        if len(rest):
            dense = prior.family.compute_log_prob(rest, weigh(factors, x.dtype))
            entropy += _measure_groups(normalise(dense)[0], groups)
    return entropy


def measure_evidence(prior: Prior, factors: Factors, x: Tensor, chunk_size: int) -> Tensor:
    """Compute the evidence of rows x (n, D), as `run_local_step` does, and nothing else: 0-dim float64, nats."""
    evidence = factors.log_weights.new_zeros(())
    for _, found, rest in _screen_rows(prior, factors, x, chunk_size):
        if found is not None:
            evidence += normalise(found.log_prob)[1][found.complete].sum(dtype=torch.float64)
        if len(rest):
            dense = prior.family.compute_log_prob(rest, weigh(factors, x.dtype))
            evidence += normalise(dense)[1].sum(dtype=torch.float64)
    return evidence


def label_rows(prior: Prior, factors: Factors, x: Tensor, chunk_size: int) -> Tensor:
    """Find the most likely component of each row of x (n, D), or one that is hardly less likely: (n,)."""
    coefficients, scale = weigh(factors, x.dtype), prior.scale.to(x.dtype)
    screen = make_screen(coefficients, LEAST_SIZE_FIT)
    labels = []
    for rows in x.split(chunk_size):
        features = prior.family.make_features(rows, scale)
        if screen is None:
            labels.append(prior.family.compute_log_prob(features, coefficients).argmax(1))
        else:
            labels.append(find_largest(compute_coarse(screen, features)))
    return torch.cat(labels)


def _screen_rows(
    prior: Prior, factors: Factors, x: Tensor, chunk_size: int
) -> Iterator[tuple[Tensor, Candidates | None, Tensor]]:
    """Chunks of x (n, D): their features, candidates where screening pays, and the features of what these leave out."""
    screen = make_screen(weigh(factors, x.dtype), LEAST_SIZE_FIT)
    scale = prior.scale.to(x.dtype)
    for rows in x.split(chunk_size):
        features = prior.family.make_features(rows, scale)
        found = None if screen is None else find_candidates(screen, features, MARGIN)
        yield features, found, features if found is None else features[~found.complete]


def _add_candidates(found: Candidates, features: Tensor, counts: Tensor, sums: Tensor, evidence: Tensor) -> None:
    """Add what the complete rows of a chunk contribute to counts (K,), sums (K, F) and evidence (K,), all float64."""
    num_components = counts.shape[0]
    resp, log_norm = normalise(found.log_prob)
    row, place = ((resp > NEGLIGIBLE) & found.complete[:, None]).nonzero(as_tuple=True)
    component, share = found.component[row, place], resp[row, place]
    counts += torch.bincount(component, share.double(), num_components)
    evidence += torch.bincount(component, (share * log_norm[row]).double(), num_components)
    where = torch.stack([component, row])
    size = (num_components, features.shape[0])
    sums += torch.sparse_coo_tensor(where, share, size, check_invariants=False) @ features


def _measure_groups(resp: Tensor, groups: Tensor) -> Tensor:
    """−Σ_n r_ng log r_ng with r_ng = Σ_{k in g} r_nk, for ``resp`` (n, K) and groups (C, K): (C,)."""
    joint = (resp @ groups.to(resp.dtype).T).clamp_(max=1.0)
    return torch.special.entr(joint).sum(0, dtype=torch.float64)
