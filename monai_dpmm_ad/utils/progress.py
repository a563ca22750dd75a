# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Progress bars for long steps, on a terminal or in a notebook only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["ProgressBar", "quiet_warnings", "showing_progress", "track"]

Item = TypeVar("Item")

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
    """A bar on standard error, which shows nothing where nobody can see it or :func:`showing_progress` hides it.

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

    def advance(self) -> None:
        """Count one step."""
        self._progress.advance(self._task)

    def stop(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()


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
    """Silence what MONAI, nibabel and transformers say of things that the user can neither cause nor change."""
    warnings.filterwarnings("ignore", module=r"monai\.")
    for name in ("nibabel", "transformers", "monai", "ignite"):
        logging.getLogger(name).setLevel(logging.ERROR)
