# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Hierarchical matching of one slice, patch by patch in NumPy, without clustering."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["score_slice"]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def score_slice(
    query: np.ndarray,
    cls: np.ndarray,
    references: list[tuple[np.ndarray, np.ndarray]],
    support: int,
    beta: float,
    factor: int,
    tau: float,
    temperature: float,
) -> np.ndarray:
    """Score patches ``query (n, S, D)`` of a slice with ``cls (D,)``; references are pairs of CLS and patches."""
    query, cls = unit(query), unit(cls)
    references = [(unit(c), unit(p)) for c, p in references]
    by_cls = sorted(range(len(references)), key=lambda i: -float(references[i][0] @ cls))
    ranked = []
    for i in by_cls[: support * factor]:
        best = [max(float(q @ p) for p in references[i][1][:, -1]) for q in query[:, -1]]
        ranked.append(((1 - beta) * float(references[i][0] @ cls) + beta * sum(best) / len(best), i))
    chosen = [references[i][1] for _, i in sorted(ranked, key=lambda pair: -pair[0])[:support]]
    maps, doubts = [], []
    for stage in range(query.shape[1]):
        bank = np.concatenate([patches[:, stage] for patches in chosen])
        cosines = query[:, stage] @ bank.T
        left_out: list[float] = []
        for i, patches in enumerate(chosen):
            if support == 1:
                break
            others = np.concatenate([p[:, stage] for j, p in enumerate(chosen) if j != i])
            left_out += [1 - max(float(q @ p) for p in others) for q in patches[:, stage]]
        raw = 1 - cosines.max(1)
        maps.append(raw if support == 1 else (raw - np.mean(left_out)) / np.std(left_out))
        shares = np.exp(cosines / tau) / np.exp(cosines / tau).sum(1, keepdims=True)
        entropy = -(shares * np.log(shares)).sum(1) / math.log(len(bank))
        doubts.append((entropy + entropy.mean()) / 2)
    weights = np.exp(-np.array(doubts) / temperature)
    weights /= weights.sum(0)
    fused = (np.array(maps) * weights).sum(0)
    return fused if support == 1 else np.log1p(np.exp(fused))
