# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A progress bar over an evaluator's scans."""

from __future__ import annotations

from ignite.engine import Engine, Events

from monai_dpmm_ad.utils.progress import ProgressBar

__all__ = ["ScanProgress"]


class ScanProgress:
    """Show how many scans an evaluator has finished.

    Args:
        description: a word before the bar.

    Example:
        >>> from ignite.engine import Engine
        >>> engine = Engine(lambda engine, scan: scan)
        >>> ScanProgress("Mapping").attach(engine)
        >>> engine.run(["a", "b"]).iteration
        2
    """

    def __init__(self, description: str = "Mapping") -> None:
        self.description = description
        self._bar: ProgressBar | None = None

    def attach(self, engine: Engine) -> None:
        """Register the handler's events."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop_and_raise)

    def _start(self, engine: Engine) -> None:
        self._bar = ProgressBar(self.description, engine.state.epoch_length)

    def _advance(self, engine: Engine) -> None:
        if self._bar:
            self._bar.advance()

    def _stop(self, engine: Engine) -> None:
        if self._bar:
            self._bar.stop()

    def _stop_and_raise(self, engine: Engine, error: BaseException) -> None:
        self._stop(engine)
        raise error
