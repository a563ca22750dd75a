# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Fit and evaluate every detector with every seed, so that an interruption costs at most what was under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.commands.bmad import PUBLISHED, find_dataset
from monai_dpmm_ad.commands.checks import hold_output
from monai_dpmm_ad.commands.run import Outcome, evaluate, fit
from monai_dpmm_ad.data.dataset import ScanFailure
from monai_dpmm_ad.detectors import DETECTORS
from monai_dpmm_ad.errors import CheckpointError, EmbeddingStoreError, NotFittedError, unknown_option
from monai_dpmm_ad.utils.files import PathLike, read_json, replace_file, write_json
from monai_dpmm_ad.utils.leftovers import remove_leftovers

__all__ = ["METRICS", "Cell", "benchmark", "format_table"]

_EXPECTED = (ValueError, RuntimeError, OSError, CheckpointError, EmbeddingStoreError, NotFittedError, ImportError)


#: key in ``metrics.json`` → column
METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AUPR",
    "aupro": "AUPRO",
    "best_dice": "best Dice",
    "dice_fpr10": "Dice at 10 % FPR",
    "dice_fpr05": "at 5 %",
    "dice_fpr01": "at 1 %",
}


@dataclass(frozen=True)
class Cell:
    """One fit and its evaluation, in a folder of its own."""

    dataset: str
    detector: str
    seed: int

    @property
    def path(self) -> Path:
        """Folder of the cell, relative to the benchmark's."""
        return Path(self.dataset) / self.detector / f"seed{self.seed}"


def benchmark(
    data: PathLike,
    datasets: Sequence[str],
    out: PathLike,
    detectors: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    keep_maps: bool = False,
    report: Callable[[Cell, str], None] | None = None,
    **overrides: Any,
) -> Outcome:
    """Fit on the normal training images of each data set, calibrate on the normal validation images, evaluate the test.

    A finished cell is not done again, a half-finished one continues: its bundle is not fitted twice, and what one
    detector embedded the others use as well. The same folder may later take further data sets, detectors and seeds, but
    no other settings.

    Args:
        data: folder of the data sets, see :func:`~monai_dpmm_ad.commands.benchmark.find_dataset`.
        datasets: names of data sets.
        out: gets ``DATASET/DETECTOR/seedN/result.json``, ``benchmark.json`` and ``table.md``.
        detectors: names of detectors, None for all.
        seeds: of the fits.
        keep_maps: whether to keep the anomaly maps of the test images.
        report: told of each cell, and whether it is ``done`` already, ``started``, ``finished`` or ``failed``.
        overrides: values of ids in ``configs/train.json``, the same for all cells.

    Returns:
        Failures: images that were left out, and cells that could not be run, which the same command tries again.

    Raises:
        ValueError: unknown names, or a folder that was begun with other settings.
    """
    detectors = list(DETECTORS) if detectors is None else list(detectors)
    for name in detectors:
        if name not in DETECTORS:
            raise unknown_option("detectors", name, DETECTORS)
    folders = {name: find_dataset(Path(data).absolute(), name) for name in datasets}
    out = Path(out).absolute()
    # Detector by detector within a seed: they share the embeddings of that seed.
    cells = [Cell(d, detector, seed) for d in datasets for seed in seeds for detector in detectors]
    with hold_output(out, names=("settings.json", "benchmark.json", "table.md")):
        _check_settings(out / "settings.json", overrides)
        return _run_cells(cells, folders, out, keep_maps, report or (lambda cell, state: None), overrides)


def _run_cells(
    cells: Sequence[Cell],
    folders: Mapping[str, Path],
    out: Path,
    keep_maps: bool,
    tell: Callable[[Cell, str], None],
    overrides: Mapping[str, Any],
) -> Outcome:
    outcome = Outcome()
    for cell in cells:
        if (out / cell.path / "result.json").is_file():
            tell(cell, "done")
            continue
        tell(cell, "started")
        try:
            outcome.failures += _run_cell(cell, folders[cell.dataset], out, keep_maps, dict(overrides))
            tell(cell, "finished")
        except _EXPECTED as error:
            outcome.failures.append(ScanFailure(str(cell.path), str(out / cell.path), " ".join(str(error).split())))
            tell(cell, "failed")
        _write_summary(out)
    _write_summary(out)
    return outcome


def _run_cell(cell: Cell, folder: Path, out: Path, keep_maps: bool, overrides: dict[str, Any]) -> list[ScanFailure]:
    remove_leftovers(out / cell.path)
    bundle, failures, start = out / cell.path / "bundle", [], time.process_time()
    if not is_fitted(bundle):
        overrides |= {"shared_embeddings": str(out / cell.dataset / "embeddings"), "seed": cell.seed}
        failures += fit([folder], bundle, detector_name=cell.detector, **overrides).failures
    fitted = time.process_time()
    device = {"device": overrides["device"]} if "device" in overrides else {}
    results = out / cell.path / "results"
    result = evaluate(bundle, [folder], results, report=False, save_maps=keep_maps, save_percentile=False, **device)
    content = {
        "dataset": cell.dataset,
        "detector": cell.detector,
        "seed": cell.seed,
        "metrics": result.metrics,
        "num_scans": len(result.scans),
        "num_failures": len(result.failures),
        "cpu_seconds": {"fit": fitted - start, "evaluate": time.process_time() - fitted},
        "version": __version__,
    }
    write_json(out / cell.path / "result.json", content)
    return [*failures, *result.failures]


def _check_settings(path: Path, overrides: dict[str, Any]) -> None:
    settings = {name: value for name, value in overrides.items() if name != "device"}
    if not path.is_file():
        write_json(path, settings)
        return
    begun = read_json(path)
    changed = sorted(name for name in {*begun, *settings} if begun.get(name) != settings.get(name))
    if changed:
        was = ", ".join(f"{name} = {begun.get(name, 'default')}" for name in changed)
        raise ValueError(
            f"`out` must keep the settings it was begun with, got others: {was} there. Name another --out."
        )


def _write_summary(out: Path) -> None:
    """Write ``benchmark.json`` and ``table.md`` over all finished cells of the folder, of earlier runs too."""
    found = sorted(out.glob("*/*/seed*/result.json"), key=lambda path: (path.parts[-4:-2], int(path.parts[-2][4:])))
    cells = [read_json(path) for path in found]
    write_json(out / "benchmark.json", cells)
    table = format_table(cells)
    replace_file(out / "table.md", lambda temporary: temporary.write_text(table, encoding="utf-8"))


def format_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Format all cells as Markdown, one table for each data set.

    Args:
        cells: as in ``benchmark.json``: ``dataset``, ``detector``, ``seed`` and ``metrics``.

    Returns:
        Text; metrics in per cent, mean ± standard deviation over seeds.
    """
    parts = ["# Benchmark", ""]
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        chosen = [cell for cell in cells if cell["dataset"] == dataset]
        parts += [f"## {dataset}", "", *_format_dataset(dataset, chosen), ""]
    parts += [
        "Figures in per cent, over the whole field as published; ours: mean ± standard deviation over seeds. Published",
        "rows were not run here; their data splits are the same, their backbones and image sizes may differ.",
    ]
    return "\n".join(parts) + "\n"


def _format_dataset(dataset: str, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for detector in dict.fromkeys(cell["detector"] for cell in cells):
        runs = [cell for cell in cells if cell["detector"] == detector]
        seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
        rows.append([f"**{detector}**", f"this run, {seeds}", *(_summarise(runs, key) for key in METRICS)])
    for system, source, published in PUBLISHED.get(dataset, ()):
        rows.append([system, source, *(f"{published[key]:g}" if key in published else "" for key in METRICS)])
    heads = ["system", "source", *METRICS.values()]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _summarise(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [100 * run["metrics"][key] for run in runs if key in run["metrics"]]
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
