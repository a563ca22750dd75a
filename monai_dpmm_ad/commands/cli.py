# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The command line: parse, call, print."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from monai_dpmm_ad.commands.columns import COLUMNS, metrics_table, pairs_table
from monai_dpmm_ad.commands.parser import parse_arguments
from monai_dpmm_ad.commands.signals import end_on_signals, exit_status, find_interrupt
from monai_dpmm_ad.errors import find_user_error
from monai_dpmm_ad.utils.log import LOG, RESULTS, logging_to
from monai_dpmm_ad.utils.memory import keep_heap
from monai_dpmm_ad.utils.progress import showing_progress
from monai_dpmm_ad.utils.text import printable

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.cluster import ClusterOutcome
    from monai_dpmm_ad.commands.compare import CompareOutcome
    from monai_dpmm_ad.commands.run import Outcome

__all__ = ["main"]

_MOST_WARNINGS = 10
_CONTINUES, _BEGINS_AGAIN = (f"interrupted; the same command {what}" for what in ("continues", "begins again"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``monai-dpmm-ad``.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        0 when every input was processed, 130 after Ctrl-C, 143 after SIGTERM, 1 otherwise.
    """
    try:
        with end_on_signals() as raised, ExitStack() as stack:
            try:
                options = parse_arguments(arguments)
                quiet, verbose = options.pop("quiet", False), options.pop("verbose", False)
                stack.enter_context(logging_to(quiet, verbose, options.pop("log_file", None)))
            except (OSError, ValueError) as error:  # of the file with the options, or of the log
                print(f"error: {_one_line(error)}", file=sys.stderr)
                return 1
            stack.enter_context(showing_progress(not quiet))
            return _run(options, raised)
    except KeyboardInterrupt as interrupt:  # before a command has begun
        print(_BEGINS_AGAIN, file=sys.stderr)
        return exit_status(interrupt)


def _run(options: dict[str, Any], raised: Sequence[KeyboardInterrupt]) -> int:
    """Run a command and say how it ended; a signal among ``raised`` that did not end it made it fail."""
    command, debug = options.pop("command"), options.pop("debug", False)
    options.pop("config", None)
    keep_heap()
    try:
        status = _RUNNERS[command](options)
        interrupt = raised[0] if status and raised else None
    except (KeyboardInterrupt, Exception) as error:
        interrupt = find_interrupt(error) or next(iter(raised), None)
        if interrupt is None:
            known = find_user_error(error)
            LOG.error("error: %s", _one_line(known or error), exc_info=error)  # the log file has the traceback
            if debug or known is None:
                raise
            return 1
    if interrupt is None:
        return status
    LOG.warning(_CONTINUES if command in _CONTINUE and not options.get("site") else _BEGINS_AGAIN)
    return exit_status(interrupt)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror)
    return printable(" ".join(str(error).split())) or type(error).__name__


def _demo(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands

    outcome = commands.demo(**options)
    return _say_scans(outcome, options["out"])


def _fit(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands
    from monai_dpmm_ad.utils.distributed import is_first

    if "detector_options" in options:
        options["detector_options"] = dict(options["detector_options"])
    outcome = commands.fit(**options)
    if is_first():
        _say_fitted(outcome, options["out"])
        if outcome.note:
            LOG.info("note: %s", outcome.note)
    return _say_failures(outcome)


def _say_fitted(outcome: Outcome, bundle: str) -> None:
    """Say what a fit has made, and what to do with it."""
    from monai_dpmm_ad.bundle import read_settings

    told, settings = outcome.metrics, read_settings(bundle)
    RESULTS.info("fitted bundle: %s", bundle)
    _say_found(outcome, bundle)
    num_held_out, calibrating = told["num_held_out"], told["num_calibrating"]
    which = "for calibration" if calibrating >= num_held_out else f"in all, {calibrating} of them calibrate"
    RESULTS.info("scans: %d fitted, %d held out %s", told["num_fitted"], num_held_out, which)
    if "num_active" in told:
        RESULTS.info("mixture: %d of %d components used", told["num_active"], told["num_components"])
    by_place = settings.get("normative") == "on"
    RESULTS.info("place: %s", f"judged in the frame {settings['frame']}" if by_place else "not judged by place")
    RESULTS.info("next: monai-dpmm-ad infer --bundle %s --images SCANS --out maps", shlex.quote(bundle))


def _infer(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands

    return _say_scans(commands.infer(**options), options["out"])


def _evaluate(options: dict[str, Any]) -> int:
    from monai_dpmm_ad import commands

    return _say_scans(commands.evaluate(**options), options["out"])


def _compare(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.commands.compare import compare

    outcome = compare(**options)
    _say_table(pairs_table(outcome.pairs))
    RESULTS.info("results: %s", options["out"])
    _say_warnings([(row["name"], row["warning"]) for row in outcome.pairs], "pairs")
    if outcome.note:
        LOG.info("note: %s", outcome.note)
    return _say_failures(outcome)


def _cluster(options: dict[str, Any]) -> int:
    from rich.table import Table
    from rich.text import Text

    from monai_dpmm_ad.commands.cluster import cluster

    outcome = cluster(**options)
    groups, table = outcome.groups, Table("group", "items", "most typical")
    for group in range(groups.grouping.num_clusters):
        members = groups.members(group)
        typical = ", ".join(groups.instances[index].name for index in members[:3])
        table.add_row(str(group + 1), str(len(members)), Text(typical))
    _say_table(table)
    if groups.metrics:
        told = (f"{name} {value:.3f}" for name, value in groups.metrics.items() if isinstance(value, float))
        RESULTS.info("%s", "  ".join(told))
    RESULTS.info("results: %s", options["out"])
    return _say_failures(outcome)


def _benchmark(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.commands.benchmark import benchmark

    outcome = benchmark(**options, report=lambda cell, state: LOG.info("%s: %s", cell.path, state))
    RESULTS.info("results: %s/table.md", options["out"])
    return _say_failures(outcome)


def _export(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.bundle.export import export_network

    RESULTS.info("graph: %s", export_network(**options))
    return 0


def _pack(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.bundle.pack import pack_bundle, push_bundle

    if "hub" in options:
        print(f"pushed: {push_bundle(options['bundle'], options['hub'], options.get('public', False))}")
    else:
        print(f"packed: {pack_bundle(options['bundle'], options['out'], options.get('overwrite', False))}")
    return 0


def _unpack(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.bundle.unpack import unpack_bundle

    print(f"bundle: {unpack_bundle(**options)}")
    return 0


def _pretrain(options: dict[str, Any]) -> int:
    from dataclasses import fields

    from monai_dpmm_ad.pretraining import Recipe, pretrain

    names = {field.name for field in fields(Recipe)}
    recipe = Recipe(**{name: options.pop(name) for name in list(options) if name in names})
    folder = pretrain(**options, recipe=recipe, report=_say_losses)
    RESULTS.info("embedder: %s", folder)
    return 0


def _embedders(options: dict[str, Any]) -> int:
    from monai_dpmm_ad.embedding.catalogue import format_embedders

    RESULTS.info("%s", format_embedders())
    return 0


def _label_app(options: dict[str, Any]) -> int:
    from importlib.util import find_spec

    from monai_dpmm_ad.commands.label_app import install_app, start_command

    app = install_app(options.pop("out", "label_app"))
    RESULTS.info("app: %s", app)
    RESULTS.info("start: %s", start_command(app, **options))
    if not find_spec("monailabel"):
        LOG.info("note: start it in the environment that has MONAI Label, see docs/slicer.md")
    return 0


def _say_losses(step: int, losses: Mapping[str, float]) -> None:
    LOG.info("step %d: %s", step, ", ".join(f"{name} {value:.3f}" for name, value in losses.items()))


def _say_scans(outcome: Outcome, folder: str) -> int:
    from monai_dpmm_ad.utils.distributed import is_first

    if not is_first():
        return _say_failures(outcome)
    from rich.table import Column, Table
    from rich.text import Text

    from monai_dpmm_ad.calibration.drift import describe_drift

    columns = [column for column in COLUMNS if any(column[1](row) for row in outcome.scans)]
    least = next((row.smallest_p_value for row in outcome.scans if row.smallest_p_value), None)
    caption = None if least is None else f"p-values are not below {least:.2g}"
    if caption and any(row.in_range is False for row in outcome.scans):
        caption += "; with ? they are not promised: the scan is outside of what was fitted"
    table = Table(*(Column(name, overflow="fold") for name, _ in columns), caption=caption)  # names stay whole
    for row in outcome.scans:
        table.add_row(Text(row.name), *(write(row) for _, write in columns[1:]))
    if len(outcome.scans) <= 50:
        _say_table(table)
    if outcome.metrics:
        _say_table(metrics_table(outcome.metrics))
    RESULTS.info("results: %s", outcome.report or folder)
    _say_found(outcome, folder)
    _say_warnings([(row.name, row.warning) for row in outcome.scans], "scans")
    if warning := describe_drift(outcome.drift):
        LOG.warning("warning: %s", warning)
    if outcome.note and not outcome.report:  # it stands in the report
        LOG.info("note: %s", outcome.note)
    return _say_failures(outcome)


def _say_warnings(warnings: Sequence[tuple[str, str | None]], what: str) -> None:
    warned = [(name, warning) for name, warning in warnings if warning]
    for name, warning in warned[:_MOST_WARNINGS]:
        LOG.warning("warning: %s: %s", name, warning)
    if len(warned) > _MOST_WARNINGS:
        LOG.warning("warning: %d more %s have warnings in the table", len(warned) - _MOST_WARNINGS, what)


def _say_found(outcome: Outcome, folder: str) -> None:
    if outcome.found:
        more = f" (see {folder}/left_out.csv)" if "left out" in outcome.found else ""
        RESULTS.info("%s%s", outcome.found, more)


def _say_table(table: Any) -> None:
    from rich.console import Console

    console = Console(force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    RESULTS.info("%s", captured.get().rstrip())


def _say_failures(outcome: Outcome | ClusterOutcome | CompareOutcome) -> int:
    from monai_dpmm_ad.utils.distributed import is_first

    for failure in outcome.failures if is_first() else ():
        LOG.error("failed: %s", printable(f"{failure.path}: {failure.reason}"))
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
    "pack": _pack,
    "unpack": _unpack,
    "pretrain": _pretrain,
    "label-app": _label_app,
    "embedders": _embedders,
}

#: Commands that go on where they were interrupted, but fit --site; the others leave nothing half, and begin again.
_CONTINUE = ("demo", "fit", "infer", "benchmark", "pretrain")


if __name__ == "__main__":
    sys.exit(main())
