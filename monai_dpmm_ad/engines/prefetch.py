# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Work on the next item while the last one is still being used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar, cast

__all__ = ["ALONE", "Prefetcher", "StoppedError"]

#: Bytes of a preprocessed scan from which on nothing else is in memory beside it. What is smaller is worth the overlap.
ALONE = 128 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppedError(Exception):
    """Nobody waits for the work any more."""


class Prefetcher(Generic[Item, Result]):
    """Iterate over what a function makes of each item, one item ahead, in a thread of its own.

    Order, results and exceptions are those of ``map(work, source)``. The source is read in that thread too. Work on an
    item begins when the one before it is taken, so that at most one result waits.

    Args:
        source: of the items; iterated anew each time, and by one iteration at a time. One that has a length and ends
            before it is a ``RuntimeError``.
        work: may call :meth:`check` now and then, so that nobody who leaves early has to wait for its end. By default
            the items are only taken from the source.
        alone: results that nothing is prepared beside: the next item is begun when it is asked for.

    Example:
        >>> list(Prefetcher([1, 2, 3], lambda item: item**2))
        [1, 4, 9]
    """

    def __init__(
        self,
        source: Any,
        work: Callable[[Item], Result] = cast(Any, lambda item: item),  # noqa: B008 (stateless)
        alone: Callable[[Result], bool] = lambda result: False,
    ) -> None:
        self._source = source
        self._work = work
        self._alone = alone
        self._stopped = threading.Event()
        self._running: Iterator[Result] | None = None

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Result]:
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

    def _iterate(self) -> Iterator[Result]:
        items: Iterator[Item] = iter(self._source)
        number = 0
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
            try:
                following = pool.submit(self._step, items)
                while done := following.result():
                    number += 1
                    alone = self._alone(done[0])
                    if not alone:
                        following = pool.submit(self._step, items)
                    yield done.pop()  # kept here, it would be in memory beside the next one
                    if alone:
                        following = pool.submit(self._step, items)
            finally:
                self._stopped.set()
        if hasattr(self._source, "__len__") and number < len(self._source):
            raise RuntimeError(f"the source gave {number} of {len(self._source)} items and ended")

    def _step(self, items: Iterator[Item]) -> list[Result]:
        for item in items:
            return [self._work(item)]
        return []
