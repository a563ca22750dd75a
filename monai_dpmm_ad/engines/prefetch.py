# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Work on the next item while the last one is still being used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

__all__ = ["Prefetcher", "StoppedError"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppedError(Exception):
    """Nobody waits for the work any more."""


class Prefetcher(Generic[Item, Result]):
    """Iterate over items and what a function makes of each, one item ahead, in a thread of its own.

    Order, results and exceptions are those of ``((item, work(item)) for item in source)``. The source is read in that
    thread too. Work on an item begins when the one before it is taken, so that at most one result waits.

    Args:
        source: of the items; iterated anew each time, and by one iteration at a time. One that has a length and ends
            before it is a ``RuntimeError``.
        work: may call :meth:`check` now and then, so that nobody who leaves early has to wait for its end.

    Example:
        >>> list(Prefetcher([1, 2, 3], lambda item: item**2))
        [(1, 1), (2, 4), (3, 9)]
    """

    def __init__(self, source: Any, work: Callable[[Item], Result]) -> None:
        self._source = source
        self._work = work
        self._stopped = threading.Event()
        self._running: Iterator[tuple[Item, Result]] | None = None

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[tuple[Item, Result]]:
        self.close()
        self._stopped.clear()
        self._running = self._iterate()
        return self._running

    def check(self) -> None:
        """Return, unless the iteration has ended.

        Raises:
            StoppedError: when it has; the one who waited for the result does not see it.
        """
        if self._stopped.is_set():
            raise StoppedError

    def close(self) -> None:
        """End the iteration where it is; returns when the thread has."""
        if self._running is not None:
            self._running.close()  # type: ignore[attr-defined]
            self._running = None

    def _iterate(self) -> Iterator[tuple[Item, Result]]:
        items: Iterator[Item] = iter(self._source)
        number = 0
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
            try:
                following = pool.submit(self._step, items)
                while (pair := following.result()) is not None:
                    following = pool.submit(self._step, items)
                    number += 1
                    yield pair
            finally:
                self._stopped.set()
        if hasattr(self._source, "__len__") and number < len(self._source):
            raise RuntimeError(f"the source gave {number} of {len(self._source)} items and ended")

    def _step(self, items: Iterator[Item]) -> tuple[Item, Result] | None:
        for item in items:
            return item, self._work(item)
        return None
