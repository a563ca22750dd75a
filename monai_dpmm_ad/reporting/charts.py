# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The report's plots as self-contained, reproducible SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_dpmm_ad.reporting.results import ScanResult, ScoreCalibration
from monai_dpmm_ad.utils.extras import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from monai_dpmm_ad.metrics import Curve

__all__ = ["plot_calibration", "plot_components", "plot_curve", "pretty_name"]

# Okabe and Ito's colours, told apart in all common colour blindness; never colour alone: markers differ too.
BLUE, ORANGE, GREY, DARK = "#0072B2", "#D55E00", "#8A8F98", "#22262B"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#B9BEC6",
    "axes.axisbelow": True,  # grid lines behind the bars
    "axes.labelcolor": DARK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#555B64",
    "ytick.color": "#555B64",
    "svg.hashsalt": "monai_dpmm_ad",  # the same figure gives the same bytes
    "svg.fonttype": "path",
}


def pretty_name(key: str) -> str:
    """Make a metric's key readable.

    Example:
        >>> pretty_name("pixel_roc_foreground"), pretty_name("dice_fpr05")
        ('Pixel ROC (foreground)', 'Dice at 5 % FPR')
    """
    inside = key.endswith("_foreground")
    words = key.removesuffix("_foreground").split("_")
    known = {"auroc": "AUROC", "aupr": "AUPR", "aupro": "AUPRO", "roc": "ROC", "froc": "FROC"}
    known |= {"pr": "precision-recall", "fpr": "FPR", "dice": "Dice"} | {
        f"fpr{n:02d}": f"at {n} % FPR" for n in (1, 5, 10)
    }
    text = " ".join(known.get(word, word) for word in words)
    return text[:1].upper() + text[1:] + (" (foreground)" if inside else "")


def plot_calibration(calibration: ScoreCalibration, results: Sequence[ScanResult]) -> str:
    """Plot the scores of healthy calibration scans above those of this cohort, with the threshold.

    Returns:
        A data URL.
    """
    groups: list[tuple[str, np.ndarray, str, str]] = [
        ("Healthy,\ncalibration", np.asarray(calibration.healthy_scores, dtype=float), GREY, "o")
    ]
    for name, truth, colour, marker in (
        ("This cohort,\nhealthy", False, BLUE, "o"),
        ("This cohort,\nabnormal", True, ORANGE, "D"),
        ("This cohort", None, BLUE, "o"),
    ):
        scores = np.array([result.score for result in results if result.abnormal is truth], dtype=float)
        if scores.size:
            groups.append((name, scores, colour, marker))
    figure, axes = _new_figure(6.4, 3.6)
    rng = np.random.default_rng(0)
    for row, (_, scores, colour, marker) in enumerate(groups):
        jitter = rng.uniform(-0.22, 0.22, scores.size)
        axes.scatter(scores, row + jitter, s=26, c=colour, marker=marker, alpha=0.7, linewidths=0)
        if scores.size:
            axes.plot([np.median(scores)] * 2, [row - 0.32, row + 0.32], color=DARK, linewidth=1.6)
    axes.set_yticks(range(len(groups)), [f"{group[0]} (n = {len(group[1])})" for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.6)
    axes.set_xlabel("Scan score (bar: median)")
    if calibration.threshold is not None:
        rate = "" if calibration.rate is None else f" ({100 * calibration.rate:g} % of healthy scans)"
        axes.axvline(calibration.threshold, color=DARK, linestyle="--", linewidth=1.2)
        axes.set_title(f"Threshold {calibration.threshold:.4g}{rate}", fontsize=10, color=DARK, loc="left")
    axes.grid(axis="x", color="#E7E9ED", linewidth=0.8)
    return _to_svg(figure)


def plot_curve(name: str, curve: Curve) -> str:
    """Plot one curve with its 95 % band; a ROC curve with the line of chance.

    Returns:
        A data URL.
    """
    figure, axes = _new_figure(4.2, 3.7)
    froc = name.startswith("froc")
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval")
    axes.plot(curve.x, curve.y, color=BLUE, linewidth=2)
    if "_roc" in name or name == "roc":
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label="chance")
    if froc:
        axes.set_xscale("symlog", base=2, linthresh=0.25)
        axes.set_xticks([0, 0.25, 0.5, 1, 2, 4, 8], ["0", "¼", "½", "1", "2", "4", "8"])
        axes.set_xlim(0, 8)
    else:
        axes.set_xlim(-0.01, 1.01)
    # Where lesions are rare, precision is near 0 throughout: the axis then ends above the band.
    highest = max(float(np.max(y)) for y in (curve.y, curve.high) if y is not None)
    top = 1.0 if highest > 0.25 or "pr" not in name.split("_") else 1.2 * max(highest, 1e-6)
    axes.set_ylim(-0.01 * top, 1.02 * top)
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.y_label)
    axes.grid(color="#E7E9ED", linewidth=0.8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="upper right" if "pr" in name.split("_") else "lower right")
    return _to_svg(figure)


def plot_components(weights: Sequence[float]) -> str:
    """Plot the mixture's weights in decreasing order, and how many components carry 99 %.

    Returns:
        A data URL.
    """
    ordered = np.sort(np.asarray(weights, dtype=float))[::-1]
    total = ordered.sum()
    ordered = ordered / total if total > 0 else ordered
    used = int(np.searchsorted(np.cumsum(ordered), 0.99) + 1) if total > 0 else 0
    figure, axes = _new_figure(6.4, 3.6)
    rank = np.arange(1, ordered.size + 1)
    axes.fill_between(rank, ordered, step="mid", color="#BFD9EA", linewidth=0)
    axes.fill_between(rank, ordered, where=(rank <= used).tolist(), step="mid", color=BLUE, linewidth=0)
    axes.set_title(f"{min(used, ordered.size)} of {ordered.size} components carry 99 %", fontsize=10, loc="left")
    axes.set_xlim(0.5, max(ordered.size, 1) + 0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Component, by weight")
    axes.set_ylabel("Weight")
    axes.grid(axis="y", color="#E7E9ED", linewidth=0.8)
    return _to_svg(figure)


def _new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    matplotlib = import_extra("matplotlib", "report")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def _to_svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    metadata: Mapping[str, Any] = {"Date": None, "Creator": None}
    with import_extra("matplotlib", "report").rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
