# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The benchmark's table: our cells as mean and spread over seeds, beside what has been published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from monai_dpmm_ad.benchmark.datasets import PUBLISHED

__all__ = ["FIGURES", "draw_table"]

#: key in ``metrics.json`` → column
FIGURES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AUPR",
    "aupro": "AUPRO",
    "best_dice": "best Dice",
    "dice_fpr10": "Dice at 10 % FPR",
    "dice_fpr05": "at 5 %",
    "dice_fpr01": "at 1 %",
}


def draw_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Draw all cells as Markdown, one table for each data set.

    Args:
        cells: as in ``benchmark.json``: ``dataset``, ``detector``, ``seed`` and ``metrics``.

    Returns:
        Text; figures in per cent, mean ± standard deviation over seeds.
    """
    parts = ["# Benchmark", ""]
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        chosen = [cell for cell in cells if cell["dataset"] == dataset]
        parts += [f"## {dataset}", "", *_draw_dataset(dataset, chosen), ""]
    parts += [
        "Figures in per cent, over the whole field as published; ours: mean ± standard deviation over seeds. Published",
        "rows were not run here; their data splits are the same, their backbones and image sizes may differ.",
    ]
    return "\n".join(parts) + "\n"


def _draw_dataset(dataset: str, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for detector in dict.fromkeys(cell["detector"] for cell in cells):
        runs = [cell for cell in cells if cell["detector"] == detector]
        seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
        rows.append([f"**{detector}**", f"this run, {seeds}", *(_summarise(runs, key) for key in FIGURES)])
    for system, source, figures in PUBLISHED.get(dataset, ()):
        rows.append([system, source, *(f"{figures[key]:g}" if key in figures else "" for key in FIGURES)])
    heads = ["system", "source", *FIGURES.values()]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _summarise(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [100 * run["metrics"][key] for run in runs if key in run["metrics"]]
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
