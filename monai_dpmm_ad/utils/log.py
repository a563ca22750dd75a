# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a command says: results on standard output, the rest on standard error, all of it in a log file.

As a library the package says nothing by itself: its words go to the logger ``monai_dpmm_ad``, as in any other.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from monai_dpmm_ad.utils.files import PathLike
from monai_dpmm_ad.utils.text import printable

__all__ = ["LOG", "PROGRESS", "RESULTS", "logging_to", "quiet_talkers"]


class _OwnLogger(logging.Logger):
    """Is heard where ``logging.disable`` keeps libraries from talking."""

    def isEnabledFor(self, level: int) -> bool:
        return level >= self.getEffectiveLevel()


def _make_logger(name: str) -> logging.Logger:
    before = logging.getLoggerClass()
    logging.setLoggerClass(_OwnLogger)
    try:
        return logging.getLogger(name)
    finally:
        logging.setLoggerClass(before)


LOG = _make_logger("monai_dpmm_ad")
#: lines of long steps, which a terminal shows as bars
PROGRESS = _make_logger("monai_dpmm_ad.progress")
#: what a command was asked for
RESULTS = _make_logger("monai_dpmm_ad.results")


#: loggers of MONAI and Ignite that give themselves a handler that prints
_TALKERS = (
    "monai.handlers.StatsHandler",
    "monai.handlers.mlflow_handler",
    "ignite.handlers.early_stopping.EarlyStopping",
)


def quiet_talkers() -> None:
    """Keep what MONAI and Ignite say of a fit out of a notebook; with ``--verbose`` they may speak."""
    for name in _TALKERS:
        logging.getLogger(name).addFilter(_is_verbose)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it only names files, on standard output


def _is_verbose(record: logging.LogRecord) -> bool:
    return LOG.isEnabledFor(logging.DEBUG)


class _Screen(logging.StreamHandler[Any]):
    """Prints the message alone; what cannot be written is an error, not a remark."""

    def format(self, record: logging.LogRecord) -> str:
        own = record.name.partition(".")[0] == LOG.name
        return record.getMessage() if own else f"{record.name}: {record.getMessage()}"

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # it is called while the error is handled


@contextmanager
def logging_to(quiet: bool = False, verbose: bool = False, file: PathLike | None = None) -> Iterator[None]:
    """Say the package's words on this process's standard output and error, and silence those of the libraries.

    Args:
        quiet: only warnings and errors on the screen.
        verbose: the libraries may speak: MONAI tells of every pass of a fit.
        file: gets a line with the time for each thing said, added to what it holds.

    Raises:
        OSError: when the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    screen, output = _Screen(sys.stderr), _Screen(sys.stdout)
    screen.setLevel(logging.WARNING if quiet else logging.INFO)
    output.setLevel(screen.level)
    is_terminal = sys.stderr.isatty()
    screen.addFilter(lambda record: not (is_terminal and record.name == PROGRESS.name))  # bars are seen there
    root = logging.getLogger()
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in (root, LOG, RESULTS, PROGRESS)]
    disabled, show = root.manager.disable, warnings.showwarning
    LOG.handlers, RESULTS.handlers = [screen, *handlers], [output, *handlers]
    LOG.propagate = RESULTS.propagate = False
    LOG.setLevel(logging.DEBUG if verbose else logging.INFO)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one counts for all
        PROGRESS.setLevel(logging.WARNING)
    if verbose:
        root.handlers = [screen, *handlers]
        root.setLevel(logging.INFO)
    else:
        logging.disable(logging.ERROR)
    warnings.showwarning = partial(_log_warning, set())  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show
        logging.disable(disabled)
        for logger, *state in before:
            logger.handlers, logger.level, logger.propagate = state  # type: ignore[assignment]
        for handler in handlers:
            handler.close()


def _log_warning(said: set[str], message: Warning | str, category: type[Warning], *location: Any) -> None:
    text = printable(" ".join(str(message).split()))
    if text not in said:  # a fit of several sequences comes to the same thing once for each
        said.add(text)
        LOG.warning("warning: %s", text)
