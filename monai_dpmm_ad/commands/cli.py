# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The command line: parse, call, print."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monai_dpmm_ad.commands.parser import make_parser
from monai_dpmm_ad.commands.signals import end_on_signals, exit_status, find_interrupt
from monai_dpmm_ad.errors import find_user_error
from monai_dpmm_ad.utils.memory import keep_heap
from monai_dpmm_ad.utils.text import printable

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.cluster import ClusterOutcome
    from monai_dpmm_ad.commands.compare import CompareOutcome
    from monai_dpmm_ad.commands.run import Outcome
    from monai_dpmm_ad.handlers import ScanRow

__all__ = ["main"]

_MOST_WARNINGS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``monai-dpmm-ad``.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        0 when every input was processed, 130 after Ctrl-C, 143 after SIGTERM, 1 otherwise.
    """
    options = vars(make_parser().parse_args(arguments))
    command, debug = options.pop("command"), options.pop("debug")
    keep_heap()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    if not debug:
        logging.disable(logging.ERROR)  # MONAI and Ignite narrate; what matters is printed below
    try:
        with end_on_signals():
            return _RUNNERS[command]({name: value for name, value in options.items() if value is not None})
    except (KeyboardInterrupt, Exception) as error:
        interrupt = find_interrupt(error)
        if interrupt is not None:
            what_next = "continues" if command in _CONTINUE else "begins again"
            print(f"interrupted; the same command {what_next}", file=sys.stderr)
            return exit_status(interrupt)
        known = find_user_error(error)
        if debug or known is None:
            raise
        print(f"error: {_one_line(known)}", file=sys.stderr)
    return 1


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror)
    return printable(" ".join(str(error).split())) or type(error).__name__


def _show_warning(message: Warning | str, category: type[Warning], *location: Any) -> None:
    print(f"warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _demo(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands

    outcome = commands.demo(**options)
    return _print(outcome, options["out"])


def _fit(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands
    from monai_dpmm_ad.utils.distributed import is_first

    if "detector_options" in options:
        options["detector_options"] = dict(options["detector_options"])
    outcome = commands.fit(**options)
    if is_first():
        print(f"fitted bundle: {options['out']}")
        _print_found(outcome, options["out"])
        if outcome.note:
            print(f"note: {outcome.note}", file=sys.stderr)
    return _print_failures(outcome)


def _infer(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands

    return _print(commands.infer(**options), options["out"])


def _evaluate(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands

    return _print(commands.evaluate(**options), options["out"])


def _compare(options: dict[str, Any]) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from monai_dpmm_ad.commands.compare import compare
    from monai_dpmm_ad.handlers.changes import KINDS

    outcome = compare(**options)
    table = Table("pair", *KINDS, "smallest region p")
    for row in outcome.pairs:
        least = row["region_p_value"]
        table.add_row(Text(row["name"]), *(str(row[kind]) for kind in KINDS), "" if least is None else f"{least:.3f}")
    Console().print(table)
    print(f"results: {options['out']}")
    if outcome.note:
        print(f"note: {outcome.note}", file=sys.stderr)
    return _print_failures(outcome)


def _cluster(options: dict[str, Any]) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from monai_dpmm_ad.commands.cluster import cluster

    outcome = cluster(**options)
    groups, table = outcome.groups, Table("group", "items", "most typical")
    for group in range(groups.grouping.num_clusters):
        members = groups.members(group)
        typical = ", ".join(groups.instances[index].name for index in members[:3])
        table.add_row(str(group + 1), str(len(members)), Text(typical))
    console = Console()
    console.print(table)
    if groups.metrics:
        print("  ".join(f"{name} {value:.3f}" for name, value in groups.metrics.items() if isinstance(value, float)))
    print(f"results: {options['out']}")
    return _print_failures(outcome)


def _benchmark(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.commands.benchmark import benchmark

    outcome = benchmark(**options, report=lambda cell, state: print(f"{cell.path}: {state}", file=sys.stderr))
    print(f"results: {options['out']}/table.md")
    return _print_failures(outcome)


def _export(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.bundle.export import export_network

    print(f"graph: {export_network(**options)}")
    return 0


def _pretrain(options: dict[str, Any]) -> int:
    from dataclasses import fields

    from monai_dpmm_ad.pretraining import Recipe, pretrain

    names = {field.name for field in fields(Recipe)}
    recipe = Recipe(**{name: options.pop(name) for name in list(options) if name in names})
    folder = pretrain(**options, recipe=recipe, report=_print_progress)
    print(f"embedder: {folder}")
    return 0


def _embedders(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.embedding.catalogue import format_embedders

    print(format_embedders())
    return 0


def _label_app(options: dict[str, Any]) -> int:
    from importlib.util import find_spec

    from monai_dpmm_ad.commands.label_app import install_app, start_command

    app = install_app(options.pop("out"))
    print(f"app: {app}")
    print(f"start: {start_command(app, **options)}")
    if not find_spec("monailabel"):
        print("note: start it in the environment that has MONAI Label, see docs/slicer.md", file=sys.stderr)
    return 0


def _print_progress(step: int, losses: Mapping[str, float]) -> None:
    print(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in losses.items()), file=sys.stderr)


def _print(outcome: Outcome, folder: str) -> int:
    from monai_dpmm_ad.utils.distributed import is_first

    if not is_first():
        return _print_failures(outcome)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from monai_dpmm_ad.calibration.drift import describe_drift

    console = Console()
    columns = [column for column in _COLUMNS if any(column[1](row) for row in outcome.scans)]
    least = next((row.smallest_p_value for row in outcome.scans if row.smallest_p_value), None)
    caption = None if least is None else f"p-values are not below {least:.2g}"
    table = Table(*(name for name, _ in columns), caption=caption)
    for row in outcome.scans:
        table.add_row(Text(row.name), *(write(row) for _, write in columns[1:]))
    if len(outcome.scans) <= 50:
        console.print(table)
    if outcome.metrics:
        console.print(_metrics_table(outcome.metrics))
    print(f"results: {outcome.report or folder}")
    _print_found(outcome, folder)
    warned = [row for row in outcome.scans if row.warning]
    for row in warned[:_MOST_WARNINGS]:
        print(f"warning: {row.name}: {row.warning}", file=sys.stderr)
    if len(warned) > _MOST_WARNINGS:
        print(f"warning: {len(warned) - _MOST_WARNINGS} more scans have warnings in scores.csv", file=sys.stderr)
    if warning := describe_drift(outcome.drift):
        print(f"warning: {warning}", file=sys.stderr)
    if outcome.note and not outcome.report:  # it stands in the report
        print(f"note: {outcome.note}", file=sys.stderr)
    return _print_failures(outcome)


def _print_found(outcome: Outcome, folder: str) -> None:
    if outcome.found:
        more = f" (see {folder}/left_out.csv)" if "left out" in outcome.found else ""
        print(f"{outcome.found}{more}")


def _describe_frame(row: ScanRow) -> str:
    return " ".join([row.frame or "", "" if row.frame_quality is None else f"{row.frame_quality:.2f}"]).strip()


#: A column whose cells are all empty is left out.
_COLUMNS: tuple[tuple[str, Callable[[ScanRow], str]], ...] = (
    ("scan", lambda row: row.name),
    ("score", lambda row: f"{row.score:.4g}"),
    ("p-value", lambda row: "" if row.p_value is None else f"{row.p_value:.3f}"),
    ("flagged", lambda row: "" if row.flagged is None else f"{row.flagged:.1f} {row.flagged_unit}"),
    ("regions", lambda row: "" if row.num_regions is None else str(row.num_regions)),
    ("smallest region p", lambda row: "" if row.region_p_value is None else f"{row.region_p_value:.3f}"),
    ("frame", _describe_frame),
)


def _metrics_table(metrics: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("metric", "value", "95 % interval")
    for name, value in metrics.items():
        if isinstance(value, float):
            low_high = metrics.get(f"{name}_ci")
            table.add_row(name, f"{value:.3f}", f"{low_high[0]:.3f}–{low_high[1]:.3f}" if low_high else "")
    return table


def _print_failures(outcome: Outcome | ClusterOutcome | CompareOutcome) -> int:
    from monai_dpmm_ad.utils.distributed import is_first

    for failure in outcome.failures if is_first() else ():
        print(f"failed: {printable(f'{failure.path}: {failure.reason}')}", file=sys.stderr)
    return 1 if outcome.failures else 0


_RUNNERS: dict[str, Callable[[dict[str, Any]], int]] = {
    "demo": _demo,
    "fit": _fit,
    "infer": _infer,
    "evaluate": _evaluate,
    "compare": _compare,
    "cluster": _cluster,
    "benchmark": _benchmark,
    "export": _export,
    "pretrain": _pretrain,
    "label-app": _label_app,
    "embedders": _embedders,
}


#: Commands that go on where they were interrupted; the others leave nothing half, and begin again.
_CONTINUE = ("demo", "fit", "infer", "benchmark", "pretrain")


if __name__ == "__main__":
    sys.exit(main())
