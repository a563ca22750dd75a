# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Progress of long steps: a bar on a terminal or in a notebook, a log line every so often elsewhere."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monai_dpmm_ad.utils.log import LOG, PROGRESS

__all__ = ["ProgressBar", "format_progress", "quiet_warnings", "showing_progress", "track"]

Item = TypeVar("Item")

#: Seconds between two log lines of a step; a shorter step has none.
INTERVAL = 30.0

_shown: ContextVar[bool] = ContextVar("_shown", default=True)


@contextmanager
def showing_progress(shown: bool) -> Iterator[None]:
    """Show or hide the progress bars of the block, in this thread."""
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


class ProgressBar:
    """A bar on standard error, where it can be seen and :func:`showing_progress` does not hide it, and log lines.

    The lines go to the logger ``monai_dpmm_ad.progress``, with count, rate and the time that is left.

    Args:
        description: a word or two before the bar.
        total: number of steps, None where unknown.
    """

    def __init__(self, description: str, total: int | None) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        visible = _shown.get() and (console.is_terminal or console.is_jupyter)
        self._progress = Progress(*columns, *times, console=console, disable=not visible)
        self._task = self._progress.add_task(description, total=total)
        self._progress.start()
        self._description, self._total, self._count = description, total, 0
        self._start = self._told = monotonic()

    def advance(self) -> None:
        """Count one step."""
        self._count += 1
        self._progress.advance(self._task)
        now = monotonic()
        if now - self._told >= INTERVAL or (self._count == self._total and self._told > self._start):
            self._told = now
            PROGRESS.info("%s", format_progress(self._description, self._count, self._total, now - self._start))

    def stop(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()


def format_progress(description: str, count: int, total: int | None, seconds: float) -> str:
    """Say in one line how far a step is.

    Args:
        description: what is done.
        count: of the things done so far, at least one.
        total: of all things, None where unknown.
        seconds: since the start.

    Example:
        >>> format_progress("Embedding", 30, 120, 60.0)
        'Embedding: 30 of 120, 30.0 a minute, 0:03:00 left'
        >>> format_progress("Embedding", 120, 120, 60.0)
        'Embedding: 120 of 120, 2.0 a second, took 0:01:00'
        >>> format_progress("Reading", 30, None, 60.0)
        'Reading: 30, 30.0 a minute'
    """
    a_second = count / max(seconds, 1e-9)
    rate = f"{a_second:.1f} a second" if a_second >= 1 else f"{60 * a_second:.1f} a minute"
    if total is None:
        return f"{description}: {count}, {rate}"
    left = round((total - count) / a_second)
    time = f"{timedelta(seconds=left)} left" if count < total else f"took {timedelta(seconds=round(seconds))}"
    return f"{description}: {count} of {total}, {rate}, {time}"


def track(items: Iterable[Item], total: int | None, description: str) -> Iterator[Item]:
    """Iterate with a progress bar; arguments as in :class:`ProgressBar`."""
    bar = ProgressBar(description, total)
    try:
        for item in items:
            yield item
            bar.advance()
    finally:
        bar.stop()


def quiet_warnings() -> None:
    """Silence what MONAI, nibabel and transformers say of things that the user can neither cause nor change.

    With ``--verbose``, or where the logger ``monai_dpmm_ad`` is at ``DEBUG``, they may log.

    Example:
        >>> quiet_warnings()
        >>> logging.getLogger("ignite").isEnabledFor(logging.INFO)
        False
    """
    warnings.filterwarnings("ignore", module=r"monai\.")
    level = logging.NOTSET if LOG.isEnabledFor(logging.DEBUG) else logging.ERROR
    for name in ("nibabel", "transformers", "monai", "ignite"):
        logging.getLogger(name).setLevel(level)
