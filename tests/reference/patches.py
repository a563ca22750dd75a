# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Foreground-normalised bilinear and guided upsampling, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["upsample_guided_slow", "upsample_scores_slow"]


def upsample_scores_slow(
    grid: np.ndarray,
    valid: np.ndarray,
    size: tuple[int, ...],
    patch_size: tuple[float, float],
    start: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """One image: ``grid`` and ``valid`` (h, w) to a map (H, W)."""
    h, w = grid.shape
    cells = [(i, j) for i in range(h) for j in range(w) if valid[i, j]]
    result = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            r = min(max((y + 0.5 + start[0]) / patch_size[0] - 0.5, 0), h - 1)
            c = min(max((x + 0.5 + start[1]) / patch_size[1] - 0.5, 0), w - 1)
            total = weights = 0.0
            for i, j in cells:
                weight = max(0.0, 1 - abs(r - i)) * max(0.0, 1 - abs(c - j))
                total += weight * grid[i, j]
                weights += weight
            if weights > 0:
                result[y, x] = total / weights
            elif cells:
                own = (math.floor(r + 0.5), math.floor(c + 0.5))
                nearest = min(math.dist(own, cell) for cell in cells)
                # Ties are free: NaN says that any of several patches may be taken.
                scores = {grid[cell] for cell in cells if math.dist(own, cell) == nearest}
                result[y, x] = scores.pop() if len(scores) == 1 else np.nan
    return result


def upsample_guided_slow(
    grid: np.ndarray,
    valid: np.ndarray,
    guide: np.ndarray,
    patch_size: tuple[float, float],
    start: tuple[float, float],
    radius: int,
    ridge: float,
) -> np.ndarray:
    """One image: ``grid`` and ``valid`` (h, w) and ``guide`` (H, W) to a map (H, W)."""
    h, w = grid.shape
    if not valid.any():
        return np.zeros(guide.shape)
    intensity = np.array([[_patch_mean(guide, i, j, patch_size, start) for j in range(w)] for i in range(h)])
    lines = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            cells = _window(i, j, valid, radius)
            if cells:
                g, s = (np.array([values[cell] for cell in cells]) for values in (intensity, grid))
                lines[i, j] = np.mean((g - g.mean()) * (s - s.mean())) / (g.var() + ridge)
    slopes = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            cells = _window(i, j, valid, radius)
            slopes[i, j] = np.mean([lines[cell] for cell in cells]) if cells else 0.0

    def up(x: np.ndarray) -> np.ndarray:
        return upsample_scores_slow(x, valid, guide.shape, patch_size, start)

    bounds = np.zeros((2, h, w))
    for i in range(h):
        for j in range(w):
            scores = [grid[cell] for cell in _window(i, j, valid, radius)]
            bounds[:, i, j] = (min(scores), max(scores)) if scores else (0, 0)
    return np.clip(up(grid) + up(slopes) * (guide - up(intensity)), up(bounds[0]), up(bounds[1]))


def _window(i: int, j: int, valid: np.ndarray, radius: int) -> list[tuple[int, int]]:
    h, w = valid.shape
    rows, columns = range(max(0, i - radius), min(h, i + radius + 1)), range(max(0, j - radius), min(w, j + radius + 1))
    return [(a, b) for a in rows for b in columns if valid[a, b]]


def _patch_mean(
    guide: np.ndarray, i: int, j: int, patch_size: tuple[float, float], start: tuple[float, float]
) -> float:
    total = area = 0.0
    for y in range(guide.shape[0]):
        for x in range(guide.shape[1]):
            share = 1.0
            for place, number, length, begin in zip((y, x), (i, j), patch_size, start, strict=True):
                low, high = number * length, (number + 1) * length
                share *= max(0.0, min(place + begin + 1, high) - max(place + begin, low))
            total += share * guide[y, x]
            area += share * (guide[y, x] > 0)
    return total / area if area > 1e-6 else 0.0
